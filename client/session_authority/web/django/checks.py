"""What `manage.py check` finds wrong before a user does."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from session_authority.web.django.options import options

_MIDDLEWARE = "session_authority.web.django.middleware.SessionAuthorityMiddleware"
_AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
_SIGNED_COOKIES = "django.contrib.sessions.backends.signed_cookies"


def check_settings(**_kwargs: Any) -> Sequence[CheckMessage]:
    """Look at the settings, and at what they need beside them."""
    try:
        found = options()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="session_authority.E001")]
    problems: list[CheckMessage] = []
    middleware = list(settings.MIDDLEWARE)
    if (
        _MIDDLEWARE not in middleware
        or _AUTHENTICATION not in middleware[: middleware.index(_MIDDLEWARE)]
    ):
        problems.append(
            Error(
                "Logins are not revocable: the middleware is missing or in the wrong place.",
                hint=f"Put {_MIDDLEWARE} into MIDDLEWARE, after {_AUTHENTICATION}.",
                id="session_authority.E002",
            )
        )
    if found.adopt_existing is not None and settings.SESSION_ENGINE == _SIGNED_COOKIES:
        problems.append(
            Error(
                "ADOPT_EXISTING can't be used with sessions in signed cookies: whoever was signed out could "
                "present the old cookie again.",
                hint="Leave it out, and let users sign in anew once; or keep sessions in the database or cache.",
                id="session_authority.E003",
            )
        )
    return problems
