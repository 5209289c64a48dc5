"""Live sessions for Django Channels: `scope["user"]` counts only while the user's session is live.

application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": SessionAuthorityMiddlewareStack(URLRouter(websocket_urlpatterns)),
})
"""

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
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

from session_authority.errors import (
    EndCallback,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.near_cache.endings import EndSubscription
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.web.asgi import (
    TRY_AGAIN_LATER,
    Application,
    Message,
    Receive,
    Scope,
    Send,
    arrival_of,
    close_code,
    refusal,
)
from session_authority.web.django.adopting import MARK
from session_authority.web.django.auth_session import user_id
from session_authority.web.django.options import options
from session_authority.web.django.own_session import OWN, OwnSession
from session_authority.web.django.testing_logins import presenting
from session_authority.web.visit import Visit

CHECK_SECONDS = 30.0
"""How often the session of an idle WebSocket is checked."""

_CARRIES_DATA = frozenset(("websocket.send", "http.response.start", "http.response.body"))


class SessionAuthorityMiddleware:
    """Replaces Channels' `AuthMiddleware`.

    `scope["user"]` is the user of a live session, or anonymous. `scope["auth_session"]` is the `Session` or None.

    Once the session has ended, no message passes. A WebSocket is closed with 1008, or with 1013 in an outage and after a
    re-authentication. An HTTP request gets 401 or 503; a response that has begun ends.

    If the client has a near cache, this happens as soon as the session ends. Otherwise, the session is validated for each
    message in either direction, and every 30 seconds.
    """

    def __init__(self, inner: Application, *, check_seconds: float = CHECK_SECONDS) -> None:
        """Wrap an application.

        Args:
            inner: The application.
            check_seconds: How often the session of an idle WebSocket is checked without a near cache.
        """
        self._inner = inner
        self._check_seconds = check_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the user of a connection, and end the connection with the user's session.

        During an outage, refuse the connection.
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
            is_known = await login.identify(scope) and await login.watch(connection.session_ended)
        except Unavailable:
            if scope["type"] == "websocket":
                await receive()  # "websocket.connect"
            await connection.end(TRY_AGAIN_LATER, scope)
            return
        if not is_known:
            await self._inner(scope, receive, send)
            return
        scope |= {"user": login.user, "auth_session": login.session}
        checking = asyncio.ensure_future(connection.check(self._check_seconds))
        try:
            await self._inner(scope, connection.receive, connection.send)
        finally:
            checking.cancel()
            login.leave()


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
        self._subscriptions: list[EndSubscription] = []
        self._has_left = False

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

    async def watch(self, ended: EndCallback) -> bool:
        """Call a function when the session ends, if the client has a near cache. Return False if it has just ended.

        Raises:
            Unavailable: The authority cannot answer, or the client has too many subscriptions.
        """
        loop = asyncio.get_running_loop()

        def call(error: SessionAuthorityError) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended, error)

        try:
            await sync_to_async(self._subscribe, thread_sensitive=False)(call)
        except SessionNotLive:
            self.leave()
            return False
        except BaseException:
            self.leave()
            raise
        return True

    @property
    def is_watched(self) -> bool:
        """Whether the end of the session is reported."""
        return bool(self._subscriptions)

    def leave(self) -> None:
        """Stop watching, because the connection ends."""
        self._has_left = True
        for subscription in self._subscriptions:
            subscription.cancel()

    async def end_code(self, *, passive: bool) -> int | None:
        """Return the code to close a connection with; None while the session is live.

        Args:
            passive: Whether the check is not caused by the user. It then doesn't count as activity.
        """
        if passive and self.is_watched and not any(each.ended for each in self._subscriptions):
            return None
        try:
            answer = await sync_to_async(self._validate, thread_sensitive=False)(passive)
        except Unavailable as error:
            return close_code(error)
        if isinstance(answer, Rejection):
            return close_code(SessionNotLive(rejection=answer))
        return None

    def _subscribe(self, ended: EndCallback) -> None:
        client = self._options.client
        if client.near_cache_statistics is None:
            return
        tokens = (
            [self._visit.token] if self._own_id is None else [self._visit.token, self._own.token]
        )
        for token in tokens:
            self._subscriptions.append(client.on_end(token, ended))
        if self._has_left:  # while this thread waited
            self.leave()

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
        self._code: int | None = None
        self._ending: asyncio.Task[None] | None = None

    def session_ended(self, error: SessionAuthorityError) -> None:
        """End the connection, or wait with that until a WebSocket is accepted or refused."""
        self._code = close_code(error)
        if self._has_begun or self._kind != "websocket":
            self._ending = asyncio.ensure_future(self.end(self._code))

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
        code = self._code
        if not self._is_over and (code is not None or message["type"] in _CARRIES_DATA):
            code = code or await self._login.end_code(passive=True)
            if code is not None:
                await self.end(code)
        if self._is_over:
            return
        self._has_begun = True
        self._is_over = message["type"] == "websocket.close"
        await self._send(message)

    async def check(self, seconds: float) -> None:
        """Without a near cache, check the session of a WebSocket at intervals, and close the WebSocket once it has ended."""
        while self._kind == "websocket" and not self._is_over and not self._login.is_watched:
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
                await self._refuse("websocket.http.response", code)
            else:
                await self._send({"type": "websocket.close", "code": code})
        elif self._has_begun:
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._refuse("http.response", code)

    async def _refuse(self, kind: str, code: int) -> None:
        for message in refusal(kind, code):
            await self._send(message)
