"""Django's requests: their type, for annotations, and the data that the library reads from them.

def profile(request: SessionRequest) -> HttpResponse:
    session = request.auth_session.require()
"""

from typing import cast

from django.conf import settings
from django.http import HttpRequest

from session_authority.web.django.auth_session import AuthSession
from session_authority.web.django.testing_logins import presenting
from session_authority.web.site import Arrival


class SessionRequest(HttpRequest):
    """A type for Django's requests after the middleware, which adds `auth_session`. No request is an instance of it."""

    auth_session: AuthSession


def auth_session_of(request: HttpRequest) -> AuthSession:
    """Return the `auth_session` that the middleware added to a request."""
    return cast("SessionRequest", request).auth_session


def arrival(request: HttpRequest) -> Arrival:
    """Return the data of a Django request."""
    meta = request.META

    def header(name: str) -> str:
        value = meta.get("HTTP_" + name.upper().replace("-", "_"), "")
        return value if isinstance(value, str) else ""

    forwarded_host = header("x-forwarded-host") if settings.USE_X_FORWARDED_HOST else ""
    return Arrival(
        scheme=request.scheme or "http",
        host=forwarded_host or header("host"),
        peer=meta.get("REMOTE_ADDR") or None,
        header=presenting(header, request.session),
    )
