"""Live sessions for Django Channels: `scope["user"]` counts only while the user's session is live.

application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": SessionAuthorityMiddlewareStack(URLRouter(websocket_urlpatterns)),
})
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser

try:
    from channels.auth import get_user
    from channels.db import database_sync_to_async
    from channels.sessions import CookieMiddleware, SessionMiddleware
except ImportError as error:
    raise ImportError(
        f"session_authority.web.django.channels needs Django Channels ({error}): "
        "pip install channels"
    ) from None

from session_authority.errors import Unavailable
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.web.asgi import Application, Message, Receive, Scope, Send, arrival_of
from session_authority.web.django.adopting import MARK
from session_authority.web.django.auth_session import user_id
from session_authority.web.django.options import options
from session_authority.web.django.own_session import OWN, OwnSession
from session_authority.web.django.testing_logins import presenting
from session_authority.web.visit import RETRY_AFTER_SECONDS, Visit

CHECK_SECONDS = 30.0
"""How often the session of an idle WebSocket is checked."""

_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013  # RFC 6455, section 7.4.1, and its registry
_CARRIES_DATA = frozenset(("websocket.send", "http.response.start", "http.response.body"))


class SessionAuthorityMiddleware:
    """Replaces Channels' `AuthMiddleware`.

    `scope["user"]` is the user of a live session, or anonymous. `scope["auth_session"]` is the `Session` or None.

    The session is validated again for each message in either direction, and every 30 seconds. Once it has ended, no
    message passes. A WebSocket is closed with 1008, or with 1013 in an outage. An HTTP request gets 401, or 503 in an
    outage.
    """

    def __init__(self, inner: Application, *, check_seconds: float = CHECK_SECONDS) -> None:
        """Wrap an application.

        Args:
            inner: The application.
            check_seconds: How often the session of an idle WebSocket is checked.
        """
        self._inner = inner
        self._check_seconds = check_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the user of a connection.

        If the user has a live session, check the session again while the connection is open. During an outage, end
        the connection.
        """
        if "session" not in scope:
            raise ValueError(
                "SessionAuthorityMiddleware needs Channels' SessionMiddleware around it: use "
                "SessionAuthorityMiddlewareStack"
            )
        login = _Login(scope)
        connection = _Connection(scope["type"], login, receive, send)
        scope = {**scope, "user": AnonymousUser(), "auth_session": None}
        try:
            if await login.identify(scope):
                scope |= {"user": login.user, "auth_session": login.session}
        except Unavailable:
            if scope["type"] == "websocket":
                await receive()  # "websocket.connect"
            await connection.end(_TRY_AGAIN_LATER, scope)
            return
        if login.session is None:
            await self._inner(scope, receive, send)
            return
        watch = asyncio.ensure_future(connection.watch(self._check_seconds))
        try:
            await self._inner(scope, connection.receive, connection.send)
        finally:
            watch.cancel()


def SessionAuthorityMiddlewareStack(inner: Application) -> Any:  # noqa: N802 - named as in Channels
    """Wrap an application as Channels' `AuthMiddlewareStack` does, with live sessions."""
    return CookieMiddleware(SessionMiddleware(SessionAuthorityMiddleware(inner)))


class _Login:
    """Django's login of one connection, and its session."""

    def __init__(self, scope: Scope) -> None:
        self.user: Any = None
        self.session: Session | None = None
        self._options = options()
        arrival = arrival_of(scope)
        arrival = replace(arrival, header=presenting(arrival.header, scope["session"]))
        self._visit = Visit(self._options.site, arrival)
        self._own = OwnSession(self._options.own_cookie, self._visit, self._options.client)
        self._own_id: str | None = None

    async def identify(self, scope: MutableMapping[str, Any]) -> bool:
        """Say whether the connection belongs to a user with a live session.

        Raises:
            Unavailable: The authority cannot answer.
        """
        user = await get_user(scope)
        if not user.is_authenticated:
            return False
        login = scope["session"]
        mark, self._own_id = await database_sync_to_async(
            lambda: (login.get(MARK), login.get(OWN))
        )()
        session = await sync_to_async(self._find, thread_sensitive=False)()
        if session is None or session.user_id != user_id(user):
            return False
        if mark not in (None, session.session_id):
            return False
        if not await sync_to_async(self._actor_is_live, thread_sensitive=False)():
            return False
        self.user, self.session = user, session
        return True

    async def end_code(self, *, passive: bool) -> int | None:
        """Return the code to close a connection with; None while the session is live.

        Args:
            passive: Whether the check is not caused by the user. It then doesn't count as activity.
        """
        try:
            answer = await sync_to_async(self._validate, thread_sensitive=False)(passive)
        except Unavailable:
            return _TRY_AGAIN_LATER
        if isinstance(answer, Rejection):
            # After a re-authentication, the browser can connect again with its newer token.
            superseded = answer.reason is RejectionReason.SUPERSEDED
            return _TRY_AGAIN_LATER if superseded else _POLICY_VIOLATION
        return None

    def _find(self) -> Session | None:
        if questions := self._visit.to_ask():
            self._visit.answered(self._options.client.validate_many(questions))
        return self._visit.session

    def _validate(self, passive: bool) -> Session | Rejection:
        answer = self._options.client.validate(
            self._visit.token, ip_address=self._visit.ip_address, passive=passive
        )
        if answer and not self._actor_is_live():
            return Rejection(RejectionReason.REVOKED)
        return answer

    def _actor_is_live(self) -> bool:
        if self._own_id is None:
            return True
        own = self._own.live()
        return own is not None and own.session_id == self._own_id


class _Connection:
    """A connection of a signed-in user. No message passes after the session has ended."""

    def __init__(self, kind: str, login: _Login, receive: Receive, send: Send) -> None:
        self._kind = kind
        self._login = login
        self._receive = receive
        self._send = send
        self._is_over = False
        self._has_begun = False

    async def receive(self) -> Message:
        """Receive a message. If the session has ended, end the connection instead."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return message
        code = await self._login.end_code(passive=False)
        if code is None:
            return message
        await self.end(code)
        return {"type": "websocket.disconnect", "code": code}

    async def send(self, message: Message) -> None:
        """Send a message. If the session has ended, end the connection instead."""
        if message["type"] in _CARRIES_DATA and not self._is_over:
            code = await self._login.end_code(passive=True)
            if code is not None:
                await self.end(code)
        if self._is_over:
            return
        self._has_begun = True
        self._is_over = message["type"] == "websocket.close"
        await self._send(message)

    async def watch(self, seconds: float) -> None:
        """Check the session of a WebSocket at intervals, and close the WebSocket once the session has ended."""
        while self._kind == "websocket" and not self._is_over:
            await asyncio.sleep(seconds)
            code = await self._login.end_code(passive=True)
            if code is not None and self._has_begun:
                await self.end(code)

    async def end(self, code: int, scope: Scope | None = None) -> None:
        """Close the connection, or answer a request that has no response yet."""
        if self._is_over:
            return
        self._is_over = True
        if self._kind == "websocket":
            extensions = (scope or {}).get("extensions") or {}
            if "websocket.http.response" in extensions:
                await self._answer("websocket.http.response", code)
            else:
                await self._send({"type": "websocket.close", "code": code})
        elif self._has_begun:
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._answer("http.response", code)

    async def _answer(self, kind: str, code: int) -> None:
        headers = [(b"cache-control", b"no-store"), (b"content-type", b"text/plain")]
        status, body = 401, b"Not logged in"
        if code == _TRY_AGAIN_LATER:
            status, body = (
                503,
                b"We can't check your session right now. This doesn't log you out. Please try again in a few seconds.",
            )
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        await self._send({"type": f"{kind}.start", "status": status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": body})
