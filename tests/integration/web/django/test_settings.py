"""Checks of a Django site's settings at startup."""

import re
from typing import Any

import pytest

from django.core.exceptions import ImproperlyConfigured  # isort: skip
from django.core.management import call_command  # isort: skip
from django.core.management.base import SystemCheckError  # isort: skip
from django.http import HttpRequest  # isort: skip
from django.test import override_settings  # isort: skip
from session_authority import SessionClient
from session_authority.web.django.middleware import SessionAuthorityMiddleware
from tests.integration.web.django.site import BEFORE, settings
from tests.integration.web.django_browser import Browser
from tests.integration.web.threaded_authority import ThreadedAuthority

pytestmark = pytest.mark.usefixtures("django_database")


def test_invalid_settings_are_refused_at_startup(client: SessionClient) -> None:
    call_command("check")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ADRESS": "x"}, "has no key ADRESS; its keys are CLIENT"),
        ({"CLIENT": "127.0.0.1:1"}, "CLIENT must be a SessionClient"),
        ({"COOKIE_NAME": "a b"}, "cookie's name"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8"}, "not a str"),
        ({"FORWARDING_HEADER": "x-real-ip"}, "x-forwarded-for"),
        ({"ADOPT_EXISTING": True}, "moment of the deployment"),
        ({"ADOPT_EXISTING": "2026-01-01T00:00"}, "time zone"),
        ({"PAGE": {"sign_in_url": "javascript:x"}}, "sign_in_url"),
        ({"PAGE": {"colour": "red"}}, "colour"),
        ({"PROVIDERS": "https://id.example"}, "PROVIDERS: give a list of providers"),
        ({"PROVIDERS": [{"issuer": "x", "client_id": "y"}]}, "PROVIDERS: provider 1: issuer must"),
    ]
    for given, problem in wrong:
        with (
            override_settings(SESSION_AUTHORITY=given),
            pytest.raises(SystemCheckError, match=re.escape(problem)),
        ):
            call_command("check")


@pytest.mark.usefixtures("client")
def test_a_correct_site_gets_no_warning() -> None:
    call_command("check", fail_level="WARNING")


def test_a_missing_or_misplaced_middleware_is_reported() -> None:
    ours = "session_authority.web.django.middleware.SessionAuthorityMiddleware"
    authentication = "django.contrib.auth.middleware.AuthenticationMiddleware"
    for middleware in ([], [ours], [ours, authentication]):
        with (
            override_settings(MIDDLEWARE=middleware),
            pytest.raises(SystemCheckError, match=r"session_authority\.E002"),
        ):
            call_command("check")
    with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
        SessionAuthorityMiddleware(lambda _request: None)(HttpRequest())


def test_adopting_logins_from_signed_cookies_is_refused(client: SessionClient) -> None:
    engine = "django.contrib.sessions.backends.signed_cookies"
    with override_settings(SESSION_ENGINE=engine):
        call_command("check")
        with (
            settings(client, ADOPT_EXISTING=BEFORE),
            pytest.raises(SystemCheckError, match=r"session_authority\.E003"),
        ):
            call_command("check")


def test_the_default_client_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, authority: ThreadedAuthority
) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_ADDRESS", authority.address)
    monkeypatch.setenv("SESSION_AUTHORITY_API_KEY", authority.key)
    with override_settings(SESSION_AUTHORITY={}):
        browser = Browser()
        browser.sign_in()
        assert browser.who() == "ada"
