"""The responses of a FastAPI or Starlette app to errors of the authority."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response

from session_authority.errors import (
    AuthenticationTooOld,
    ReauthenticationRequired,
    SessionAuthorityError,
    SessionLimitReached,
    SessionNotLive,
    Unavailable,
)
from session_authority.web.asgi import SESSIONS_KEY, AsyncVisit, Scope, close_code, visit_key
from session_authority.web.next_page import confirm_address, is_same_page
from session_authority.web.visit import RETRY_AFTER_SECONDS

_ANSWERS: Mapping[type[SessionAuthorityError], tuple[int, str]] = {
    SessionNotLive: (401, "Not logged in"),
    AuthenticationTooOld: (
        401,
        "You were logged out everywhere in the meantime. Please log in again.",
    ),
    ReauthenticationRequired: (403, "Please confirm your identity first."),
    SessionLimitReached: (
        403,
        "You're logged in on too many devices. Please log out one of them first.",
    ),
    Unavailable: (
        503,
        "We can't check your session right now. This doesn't log you out. Please try again in a few seconds.",
    ),
}


def add_handlers(app: Starlette) -> None:
    """Add exception handlers to an app, for the errors that it does not handle itself."""
    for kind in _ANSWERS:
        app.exception_handlers.setdefault(kind, _answer)


async def close_if_open(visit: AsyncVisit, error: Exception) -> None:
    """Close a WebSocket that has been accepted, with the code for an error."""
    if visit.is_open:
        await visit.close(close_code(error))


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    status, detail = next(each for kind, each in _ANSWERS.items() if isinstance(error, kind))
    if connection.scope["type"] == "websocket":
        visit = _visit(connection)
        if visit.responded or not _can_respond(connection.scope):
            await visit.close(close_code(error))
            return None
    elif address := _page_for(error, connection):
        return RedirectResponse(address, 303, {"cache-control": "no-store"})
    content, headers = {"detail": detail}, {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["www-authenticate"] = "Cookie"  # RFC 9110 requires a challenge
    if isinstance(error, ReauthenticationRequired):
        content |= error.metadata
    return JSONResponse(content, status, headers)


def _can_respond(scope: Scope) -> bool:
    """Say whether the server can respond to the handshake of a WebSocket. If not, the WebSocket is closed."""
    return "websocket.http.response" in (scope.get("extensions") or {})


def _page_for(error: Exception, connection: HTTPConnection) -> str | None:
    """Return the page on which the user can sign in or confirm their identity.

    Return None for a program, and on that page itself.
    """
    options = _sessions(connection).page_options
    match error:
        case SessionNotLive():
            url = options.sign_in_url
        case ReauthenticationRequired():
            url = options.reauthenticate_url
        case _:
            return None
    if url is None or "text/html" not in connection.headers.get("accept", ""):
        return None
    path, query = _path(connection.scope), connection.url.query
    if is_same_page(path, url):
        return None
    return confirm_address(
        url,
        method=connection.scope.get("method", "GET"),
        path=f"{path}?{query}" if query else path,
        referer=connection.headers.get("referer", ""),
        origin=_visit(connection).origin,
    )


def _path(scope: Scope) -> str:
    """Return the path that the browser sees, quoted. If a proxy removed the root path, put it back."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if not (path + "/").startswith(root.rstrip("/") + "/"):
        path = root + path
    return quote(path, safe="/:@!$&'()*+,;=")


def _sessions(connection: HTTPConnection) -> Any:
    return connection.scope[SESSIONS_KEY]


def _visit(connection: HTTPConnection) -> AsyncVisit:
    visit: AsyncVisit = connection.scope[visit_key(_sessions(connection))]
    return visit
