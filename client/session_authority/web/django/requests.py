"""The type of a request that has met the middleware, for annotations.

def profile(request: SessionRequest) -> HttpResponse:
    session = request.auth_session.require()
"""

from django.http import HttpRequest

from session_authority.web.django.auth_session import AuthSession


class SessionRequest(HttpRequest):
    """Django's request with `auth_session`. Nothing makes one: Django's own requests look like this."""

    auth_session: AuthSession
