"""Django's requests: the type of one that has met the middleware, for annotations, and what is read from one.

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
    """Django's request with `auth_session`. Nothing makes one: Django's own requests look like this."""

    auth_session: AuthSession


def auth_session_of(request: HttpRequest) -> AuthSession:
    """Return the `auth_session` of a request that has met the middleware."""
    return cast("SessionRequest", request).auth_session


def arrival(request: HttpRequest) -> Arrival:
    """Return what Django says of a request."""
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
