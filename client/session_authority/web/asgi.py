"""What the integrations of ASGI frameworks rest on; it needs none of them.

The middleware notes when a request came in and lets the cookie go out with its response, whichever it is. It
asks the authority nothing by itself, unless a request fails whose sign-in would be left to nobody.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from session_authority.web.visit import Arrival, Site, Visit

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

VISIT_KEY = "session_authority.visit"
"""Where in the scope the visit is."""
SESSIONS_KEY = "session_authority.sessions"
"""Where in the scope that is which asks the authority."""

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


class SessionMiddleware:
    """Puts a `Visit` into the scope of each request and WebSocket, and its cookies into the response."""

    def __init__(
        self,
        app: Application,
        site: Site,
        sessions: object,
        take_back: Callable[[Visit], Awaitable[None]],
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            site: What is the same for all its requests.
            sessions: What is put beside the visit, for those further inside to ask the authority by.
            take_back: Ends the session that a visit began, if it began one.
        """
        self._app = app
        self._site = site
        self._sessions = sessions
        self._take_back = take_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or VISIT_KEY in scope:
            await self._app(scope, receive, send)
            return
        scope[SESSIONS_KEY] = self._sessions
        visit = scope[VISIT_KEY] = Visit(self._site, _arrival(scope))

        async def send_with_cookies(message: Message) -> None:
            if message["type"] in _STARTS:
                visit.responded = True
                message["headers"] = [*message.get("headers", ()), *_headers(visit)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_cookies)
        except BaseException:
            # What answers instead is further outside, and knows of no cookie.
            if not visit.responded:
                await self._take_back(visit)
            raise


def headers_of(scope: Scope, name: str) -> str:
    """Give a request's header by its name in lower case, several joined, or ""."""
    wanted = name.encode("latin-1")
    joint = "; " if name == "cookie" else ", "
    return joint.join(value.decode("latin-1") for key, value in scope["headers"] if key == wanted)


def _arrival(scope: Scope) -> Arrival:
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
        # Above all what holds a token is nobody else's to keep.
        yield b"cache-control", b"no-store"
    if visit.was_looked_up:
        yield b"vary", b"Cookie"
