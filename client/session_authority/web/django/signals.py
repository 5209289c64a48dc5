"""What happens at Django's `login()` and `logout()`."""

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest

from session_authority.web.django.auth_session import AuthSession


def logged_in(*, request: HttpRequest | None, user: AbstractBaseUser, **_kwargs: Any) -> None:
    """Record a login; not one outside of a request, such as that of a test's `force_login`."""
    auth_session = getattr(request, "auth_session", None)
    if isinstance(auth_session, AuthSession):
        auth_session.logged_in(user)


def logged_out(*, request: HttpRequest | None, **_kwargs: Any) -> None:
    """Record a logout."""
    auth_session = getattr(request, "auth_session", None)
    if isinstance(auth_session, AuthSession):
        auth_session.logged_out()
