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
from session_authority.web.asgi import SESSIONS_KEY, AsyncVisit, Scope, visit_key
from session_authority.web.next_page import confirm_address, is_same_page
from session_authority.web.visit import RETRY_AFTER_SECONDS

_POLICY_VIOLATION, _INTERNAL_ERROR, _TRY_AGAIN_LATER = 1008, 1011, 1013
"""Codes that close a WebSocket (RFC 6455, section 7.4.1, and its registry)."""

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
    if not visit.is_open:
        return
    status = next((each for kind, (each, _) in _ANSWERS.items() if isinstance(error, kind)), 500)
    codes = {500: _INTERNAL_ERROR, 503: _TRY_AGAIN_LATER}
    await visit.close(codes.get(status, _POLICY_VIOLATION))


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    status, detail = next(each for kind, each in _ANSWERS.items() if isinstance(error, kind))
    if connection.scope["type"] == "websocket" and _visit(connection).responded:
        await close_if_open(_visit(connection), error)
        return None
    if isinstance(error, ReauthenticationRequired) and (address := _confirm_address(connection)):
        return RedirectResponse(address, 303, {"cache-control": "no-store"})
    content, headers = {"detail": detail}, {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["www-authenticate"] = "Cookie"  # RFC 9110 requires a challenge
    if isinstance(error, ReauthenticationRequired):
        content |= error.metadata
    return JSONResponse(content, status, headers)


def _confirm_address(connection: HTTPConnection) -> str | None:
    """Return the page on which the user can confirm their identity; None for a program, and on that page itself."""
    confirm_url = _sessions(connection).page_options.reauthenticate_url
    if confirm_url is None or "text/html" not in connection.headers.get("accept", ""):
        return None
    path, query = _path(connection.scope), connection.url.query
    if is_same_page(path, confirm_url):
        return None
    return confirm_address(
        confirm_url,
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
