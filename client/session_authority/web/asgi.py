"""The code that the integrations of all ASGI frameworks share. It imports none of the frameworks.

The middleware notes when a request arrived, and adds the cookie to its response. By itself, it calls the authority only
to end a sign-in whose request failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from session_authority.aio import AsyncSessionClient
from session_authority.errors import (
    AuthenticationTooOld,
    ClientClosed,
    ReauthenticationRequired,
    SessionAuthorityError,
    SessionLimitReached,
    SessionNotLive,
    Unavailable,
)
from session_authority.near_cache.endings import EndSubscription
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.web.site import Arrival, Site
from session_authority.web.visit import RETRY_AFTER_SECONDS, Visit

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSIONS_KEY = "session_authority.sessions"
"""The scope's key for the innermost `Sessions` that the request has reached."""
_COOKIES_KEY = "session_authority.cookies"
"""The scope's key for the cookie names in use, each with its `Sessions`."""


class HasClient(Protocol):
    """The `Sessions`, whose client a test may replace at any time."""

    client: AsyncSessionClient


def visit_key(sessions: object) -> str:
    """Return the key in the ASGI scope under which a `Sessions` keeps its visit."""
    return f"session_authority.visit.{id(sessions)}"


POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1008, 1011, 1013
"""Codes that close a WebSocket (RFC 6455, section 7.4.1, and its registry)."""

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_DATA = frozenset(("http.response.body", "websocket.send"))
# If `require` closes the WebSocket and raises, the app's exception handler still sends these messages. Drop them.
_DROPPED_AFTER_CLOSE = frozenset(
    ("websocket.close", "websocket.http.response.start", "websocket.http.response.body")
)
_WITHOUT_BODY = frozenset((204, 304))


class AsyncVisit(Visit):
    """A visit of an ASGI request or WebSocket. The app receives and sends its messages through it.

    If the client has a near cache, an accepted WebSocket and a response without a Content-Length end with their session.

    Attributes:
        turn: The lock for look-ups, because several tasks of a WebSocket may look up at the same time.
        delivered: Whether the server has accepted the start of the response.
        is_open: Whether a WebSocket has been accepted, and neither the app nor `close` has closed it.
    """

    def __init__(
        self, site: Site, sessions: HasClient, scope: Scope, receive: Receive, send: Send
    ) -> None:
        super().__init__(site, arrival_of(scope))
        self.turn = asyncio.Lock()
        self.delivered = self.is_open = False
        self._sessions = sessions
        self._receive = receive
        self._send = send
        # Servers with an older version drop what is sent after a disconnect.
        version = str(scope.get("asgi", {}).get("spec_version", "2.0"))
        self._raises_after_end = scope["type"] == "websocket" or version >= "2.4"
        self._is_streaming = self._was_closed = self._is_watching = False
        self._sending = 0
        self._code = POLICY_VIOLATION
        self._subscription: EndSubscription | None = None

    async def receive(self) -> Message:
        """Return the next message for the app. After the end of the session, it is a disconnect."""
        message = await self._receive()
        if message["type"] == "websocket.receive":
            await self._confirm()
            if self._was_closed:
                return {"type": "websocket.disconnect", "code": self._code}
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the app. The start of the response carries the cookie.

        Raises:
            OSError: `close` has closed the connection. The app sees the same error as after a disconnect.
        """
        kind = message["type"]
        if kind in _STARTS and not self._was_closed:
            await self._start(message)
        elif kind in _DATA:
            await self._confirm()
        if self._was_closed:
            await self._refuse(kind)
            return
        if kind in ("websocket.accept", "websocket.close"):
            self.is_open = kind == "websocket.accept"
        is_last = kind == "websocket.close" or (
            kind == "http.response.body" and not message.get("more_body", False)
        )
        if is_last:
            self._is_streaming = False
            self.unwatch()
        self._sending += 1
        try:
            await self._send(message)
        finally:
            self._sending -= 1
        self.delivered = self.responded
        if self._was_closed and self._is_streaming:
            await self._finish_stream()

    async def watch(self) -> None:
        """Let an open connection end with its session, if the client has a near cache.

        Raises:
            SessionNotLive: The session has just ended.
            Unavailable: The authority cannot answer, or the client has too many subscriptions.
        """
        client = self._sessions.client
        is_live = self.is_open or self._is_streaming
        if not is_live or self.session is None or self._is_watching:
            return
        if client.near_cache_statistics is None:
            return
        self._is_watching = True
        try:
            self._subscription = await client.on_end(self.token, self.session_ended)
        finally:
            self._is_watching = self._subscription is not None

    def unwatch(self) -> None:
        """Cancel the subscription, because the connection ends."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()

    async def session_ended(self, error: SessionAuthorityError) -> None:
        """Close the WebSocket, or end the stream, because of an error about its session."""
        if self.is_open:
            await self.close(close_code(error))
        elif self._is_streaming and not self._was_closed:
            self.unwatch()
            self._was_closed = True
            if not self._sending:  # otherwise, `send` does it
                await self._finish_stream()

    async def close(self, code: int) -> None:
        """Close a WebSocket once. Afterwards, `send` drops or rejects each message of the app."""
        if self._was_closed:
            return
        self.unwatch()
        self.is_open, self._was_closed, self._code = False, True, code
        with suppress(OSError, RuntimeError):  # the browser may already have disconnected
            await self._send({"type": "websocket.close", "code": code})

    async def _start(self, message: Message) -> None:
        """Subscribe before a connection opens, and add the cookie."""
        kind = message["type"]
        headers = [*message.get("headers", ())]
        if kind == "http.response.start":
            has_length = any(name.lower() == b"content-length" for name, _ in headers)
            self._is_streaming = not has_length and message["status"] not in _WITHOUT_BODY
        self.is_open = kind == "websocket.accept"
        try:
            await self.watch()
        except (SessionNotLive, Unavailable) as error:
            self.is_open = False
            if kind != "http.response.start":
                raise  # the app's exception handler can still respond
            # The frameworks believe that the response has started, so they don't call the handler.
            message, body = refusal("http.response", close_code(error))
            self.responded = self._was_closed = True
            await self._send(message)
            await self._send(body)
            return
        self.responded = True
        message["headers"] = [*headers, *_headers(self)]

    async def _confirm(self) -> None:
        """End the connection if its session can no longer be confirmed."""
        subscription = self._subscription
        if subscription is None or subscription.ended is None:
            return
        if isinstance(subscription.ended, Unavailable):
            # The process may have stood still. The answer to this question confirms the session.
            with suppress(SessionAuthorityError):
                await self._sessions.client.validate(self.token, passive=True)
        if (error := subscription.ended) is not None:
            await self.session_ended(error)

    async def _refuse(self, kind: str) -> None:
        if kind in _DROPPED_AFTER_CLOSE:
            return
        if self._raises_after_end:
            raise OSError("the connection was closed, because its session could not be confirmed")
        await asyncio.sleep(
            0
        )  # a stream that never waits must let the server report the disconnect

    async def _finish_stream(self) -> None:
        self._is_streaming = False
        with suppress(OSError, RuntimeError):  # the browser may already have disconnected
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def close_code(error: Exception) -> int:
    """Return the code to close a WebSocket with."""
    match error:
        case SessionNotLive(rejection=Rejection(reason=RejectionReason.SUPERSEDED)):
            return TRY_AGAIN_LATER  # the browser can connect again with its newer token
        case SessionNotLive() | AuthenticationTooOld():
            return POLICY_VIOLATION
        case ReauthenticationRequired() | SessionLimitReached():
            return POLICY_VIOLATION
        case Unavailable() | ClientClosed():
            return TRY_AGAIN_LATER
        case _:
            return INTERNAL_ERROR


def refusal(kind: str, code: int) -> tuple[Message, Message]:
    """Return the messages that respond to a request whose connection is refused.

    Args:
        kind: `http.response` or `websocket.http.response`.
        code: The code that would close a WebSocket.
    """
    headers = [(b"cache-control", b"no-store"), (b"content-type", b"text/plain")]
    status, body = 401, b"Not logged in"
    if code == TRY_AGAIN_LATER:
        status = 503
        body = b"We can't check your session right now. This doesn't log you out. Please try again in a few seconds."
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    return (
        {"type": f"{kind}.start", "status": status, "headers": headers},
        {"type": f"{kind}.body", "body": body},
    )


class SessionMiddleware:
    """Adds a visit to the scope of each request and WebSocket, and its cookies to the response."""

    def __init__(
        self,
        app: Application,
        site: Site,
        sessions: HasClient,
        take_back: Callable[[AsyncVisit], Awaitable[None]],
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            site: The site's settings.
            sessions: The `Sessions` that the visits belong to.
            take_back: Ends the session that a visit created, if any.
        """
        self._app = app
        self._site = site
        self._sessions = sessions
        self._key = visit_key(sessions)
        self._take_back = take_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with the visit of a request.

        Raises:
            RuntimeError: Another `Sessions` of the same request uses the same cookie.
        """
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[SESSIONS_KEY] = self._sessions
        if self._key in scope:  # an outer app has installed the same Sessions
            await self._app(scope, receive, send)
            return
        self._claim_cookie(scope)
        visit = AsyncVisit(self._site, self._sessions, scope, receive, send)
        scope[self._key] = visit
        try:
            await self._app(scope, visit.receive, visit.send)
        except BaseException:
            # If the request failed before its response started, an outer middleware sends an error response without
            # the cookie. The browser never gets the new session's token, so end that session.
            if not visit.delivered:
                await self._take_back(visit)
            raise
        finally:
            visit.unwatch()

    def _claim_cookie(self, scope: Scope) -> None:
        """Raise for a second `Sessions` with the same cookie: each would overwrite and clear the other's."""
        name = self._site.cookie.name(local=True)
        users = scope.setdefault(_COOKIES_KEY, {})
        if users.setdefault(name, self._sessions) is not self._sessions:
            raise RuntimeError(
                f"two Sessions use the cookie {name!r} in one request: install the same Sessions object in "
                "both apps, or give one of them another cookie with Site(SessionCookie('...'))"
            )


async def look_up(
    client: AsyncSessionClient, visit: Visit, *, passive: bool = False
) -> Session | Rejection:
    """Return the session of a visit, or a rejection. Ask the authority at most once.

    Args:
        client: The client of the authority.
        visit: The request. It remembers the answer.
        passive: Whether the look-up is not caused by the user. It then doesn't count as activity.
    """
    match visit.to_ask(passive=passive):
        case []:
            pass
        case [only]:
            answer = await client.validate(
                only.token, ip_address=only.ip_address, passive=only.passive
            )
            visit.answered([answer])
        case several:
            visit.answered(await client.validate_many(several))
    assert visit.outcome is not None
    return visit.outcome


async def read_body(receive: Receive, limit_bytes: int) -> bytes | None:
    """Read the body of a request. Stop soon after the limit, because a longer body is refused.

    Returns:
        The body; None if the client disconnected before the end of the body.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit_bytes or not message.get("more_body", False):
            return bytes(body)


def headers_of(scope: Scope, name: str) -> str:
    """Return a request's header by its lower-case name, repeated headers joined, or ""."""
    wanted = name.encode("latin-1")
    joint = "; " if name == "cookie" else ", "
    return joint.join(value.decode("latin-1") for key, value in scope["headers"] if key == wanted)


def arrival_of(scope: Scope) -> Arrival:
    """Return the data of a scope's request or WebSocket."""
    client = scope.get("client")
    return Arrival(
        scheme=scope.get("scheme", "http"),
        host=headers_of(scope, "host"),
        peer=client[0] if client else None,
        header=lambda name: headers_of(scope, name),
    )


def _headers(visit: Visit) -> Iterable[tuple[bytes, bytes]]:
    for cookie in visit.set_cookies:
        yield b"set-cookie", cookie.header().encode("latin-1")
    if visit.set_cookies:
        # A shared cache must not store a response with a token.
        yield b"cache-control", b"no-store"
    if visit.was_looked_up:
        yield b"vary", b"Cookie"
