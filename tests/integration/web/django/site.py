"""Settings of a Django site, and failures of its authority."""

from typing import Any

from django.contrib.auth.models import User  # isort: skip
from django.test import override_settings  # isort: skip
from session_authority import SessionClient
from tests.integration.web.django_browser import Browser

BEFORE = "2026-01-15T12:00+00:00"


def down(**more: Any) -> Any:
    """Give the site an authority that isn't there."""
    return override_settings(
        SESSION_AUTHORITY={"CLIENT": SessionClient("127.0.0.1:9", deadline_seconds=1)} | more
    )


def settings(client: SessionClient, **more: Any) -> Any:
    return override_settings(SESSION_AUTHORITY={"CLIENT": client} | more)


def existing_login(name: str = "ada") -> Browser:
    """Log in as before Session Authority was there."""
    browser = Browser()
    browser.force_login(User.objects.get(username=name))
    return browser
