"""Settings of the Django site, and outages of its authority."""

from typing import Any

from django.contrib.auth.models import User  # isort: skip
from django.test import override_settings  # isort: skip
from session_authority import SessionClient
from tests.integration.web.django_browser import Browser

BEFORE = "2026-01-15T12:00+00:00"


def down(**more: Any) -> Any:
    """Use an authority that cannot be reached."""
    return override_settings(
        SESSION_AUTHORITY={"CLIENT": SessionClient("127.0.0.1:9", deadline_seconds=1)} | more
    )


def settings(client: SessionClient, **more: Any) -> Any:
    return override_settings(SESSION_AUTHORITY={"CLIENT": client} | more)


def existing_login(name: str = "ada") -> Browser:
    """Log in as users did before Session Authority was deployed."""
    browser = Browser()
    browser.force_login(User.objects.get(username=name))
    return browser
