"""The receivers of Django's signals for `login()` and `logout()`."""

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from session_authority.web.django import testing_logins
from session_authority.web.django.auth_session import AuthSession

_TOO_EARLY = (
    "{0}() was called before request.auth_session exists, so no session can be {1}. In MIDDLEWARE, put "
    "session_authority.web.django.middleware.SessionAuthorityMiddleware directly after "
    "django.contrib.auth.middleware.AuthenticationMiddleware, before any middleware that calls {0}()."
)


def logged_in(*, request: HttpRequest | None, user: AbstractBaseUser, **_kwargs: Any) -> None:
    """Record a login.

    Raises:
        ImproperlyConfigured: The request has no `auth_session` yet.
    """
    auth_session = getattr(request, "auth_session", None)
    if isinstance(auth_session, AuthSession):
        auth_session.logged_in(user)
    elif (
        request is not None and request.method is None
    ):  # the empty request of Django's test client
        testing_logins.log_in(request, user)
    elif request is not None:
        request.session.flush()
        raise ImproperlyConfigured(_TOO_EARLY.format("login", "recorded"))


def logged_out(*, request: HttpRequest | None, **_kwargs: Any) -> None:
    """Record a logout.

    Raises:
        ImproperlyConfigured: The request has no `auth_session` yet.
    """
    auth_session = getattr(request, "auth_session", None)
    if isinstance(auth_session, AuthSession):
        auth_session.logged_out()
    elif request is not None and request.method is None:
        testing_logins.log_out(request)
    elif request is not None:
        raise ImproperlyConfigured(_TOO_EARLY.format("logout", "ended"))
