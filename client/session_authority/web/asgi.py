"""The code that the integrations of all ASGI frameworks share. It imports none of the frameworks.

The middleware notes when a request arrived, and adds the cookie to its response. By itself, it calls the authority only
to end a sign-in whose request failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from session_authority.aio import AsyncSessionClient
from session_authority.session import Rejection, Session
from session_authority.web.site import Arrival, Site
from session_authority.web.visit import Visit

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


_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
# If `require` closes the WebSocket and raises, the app's exception handler still sends these messages. Drop them.
_DROPPED_AFTER_CLOSE = frozenset(
    ("websocket.close", "websocket.http.response.start", "websocket.http.response.body")
)


class AsyncVisit(Visit):
    """A visit of an ASGI request or WebSocket. The app sends its messages through it.

    Attributes:
        turn: The lock for look-ups, because several tasks of a WebSocket may look up at the same time.
        delivered: Whether the server has accepted the start of the response.
        is_open: Whether a WebSocket has been accepted, and neither the app nor `close` has closed it.
    """

    def __init__(self, site: Site, arrival: Arrival, send: Send) -> None:
        super().__init__(site, arrival)
        self.turn = asyncio.Lock()
        self.delivered = self.is_open = False
        self._was_closed = False
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a message of the app. The start of the response carries the cookie.

        Raises:
            OSError: `close` has closed the WebSocket. The app sees the same error as after a disconnect.
        """
        kind = message["type"]
        if self._was_closed:
            if kind in _DROPPED_AFTER_CLOSE:
                return
            raise OSError("the WebSocket was closed, because its session could not be confirmed")
        if kind in _STARTS:
            self.responded = True
            message["headers"] = [*message.get("headers", ()), *_headers(self)]
        if kind in ("websocket.accept", "websocket.close"):
            self.is_open = kind == "websocket.accept"
        await self._send(message)
        self.delivered = self.responded

    async def close(self, code: int) -> None:
        """Close an open WebSocket. Afterwards, `send` drops or rejects each message of the app."""
        self.is_open, self._was_closed = False, True
        with suppress(OSError, RuntimeError):  # the browser may already have disconnected
            await self._send({"type": "websocket.close", "code": code})


class SessionMiddleware:
    """Adds a visit to the scope of each request and WebSocket, and its cookies to the response."""

    def __init__(
        self,
        app: Application,
        site: Site,
        sessions: object,
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
        visit = scope[self._key] = AsyncVisit(self._site, arrival_of(scope), send)
        try:
            await self._app(scope, receive, visit.send)
        except BaseException:
            # If the request failed before its response started, an outer middleware sends an error response without
            # the cookie. The browser never gets the new session's token, so end that session.
            if not visit.delivered:
                await self._take_back(visit)
            raise

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
