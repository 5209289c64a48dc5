"""The system checks of `manage.py check`."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware, RemoteUserMiddleware
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from session_authority.web.django.middleware import SessionAuthorityMiddleware
from session_authority.web.django.options import options

_MIDDLEWARE = "session_authority.web.django.middleware.SessionAuthorityMiddleware"
_AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
_SIGNED_COOKIES = "django.contrib.sessions.backends.signed_cookies"


def check_settings(**_kwargs: Any) -> Sequence[CheckMessage]:
    """Check the setting `SESSION_AUTHORITY`.

    Also check the Django settings that it depends on: the order of `MIDDLEWARE`, and `SESSION_ENGINE`.
    """
    try:
        found = options()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="session_authority.E001")]
    problems: list[CheckMessage] = []
    problems += _order_problems(settings.MIDDLEWARE)
    if found.adopt_existing is not None and settings.SESSION_ENGINE == _SIGNED_COOKIES:
        problems.append(
            Error(
                "ADOPT_EXISTING can't be used with sessions in signed cookies: a user who was signed out could "
                "present the old cookie again.",
                hint="Remove ADOPT_EXISTING, so that users sign in again once, or store sessions in the database "
                "or cache.",
                id="session_authority.E003",
            )
        )
    return problems


def _order_problems(middleware: Sequence[str]) -> Sequence[CheckMessage]:
    """Check that no middleware before SessionAuthorityMiddleware uses or replaces `request.user`."""
    ours = _place_of(SessionAuthorityMiddleware, middleware)
    authentication = _place_of(AuthenticationMiddleware, middleware)
    if ours is None or authentication is None or ours < authentication:
        return [
            Error(
                "Logins are not revocable: the middleware is missing or in the wrong place.",
                hint=f"Put {_MIDDLEWARE} into MIDDLEWARE, directly after {_AUTHENTICATION}.",
                id="session_authority.E002",
            )
        ]
    return [
        Error(
            f"{path} comes before SessionAuthorityMiddleware in MIDDLEWARE. If it uses or replaces "
            "request.user, or logs users in, SessionAuthorityMiddleware undoes its work.",
            hint=f"Move {_MIDDLEWARE} up, directly after {_AUTHENTICATION}.",
            id="session_authority.E004",
        )
        for path in middleware[authentication + 1 : ours]
        if not _keeps_request_user(path)
    ]


def _place_of(wanted: type, middleware: Sequence[str]) -> int | None:
    for place, path in enumerate(middleware):
        found = _imported(path)
        if isinstance(found, type) and issubclass(found, wanted):
            return place
    return None


def _keeps_request_user(path: str) -> bool:
    found = _imported(path)
    if isinstance(found, type) and issubclass(found, RemoteUserMiddleware):
        return False
    return path.startswith("django.")


def _imported(path: str) -> object:
    try:
        return import_string(path)
    except ImportError:
        return None  # Django reports the import error itself when it starts
