"""Add-ons that use `request.user`: django-otp, REST framework, and users named by a gateway."""

from collections.abc import Iterator
from typing import Any

import pytest

from session_authority import testing
from tests.integration.web.django_browser import Browser, user_id

from django.contrib.auth.models import User  # isort: skip
from django.core.management import call_command  # isort: skip
from django.core.management.base import SystemCheckError  # isort: skip
from django.test import override_settings  # isort: skip
from django_otp.plugins.otp_static.models import StaticDevice  # isort: skip
from tests.integration.web.django_addons_site import (  # isort: skip
    AUTHENTICATION,
    HIJACK,
    LOGIN_REQUIRED,
    OTP,
    OURS,
    PERSISTENT_REMOTE_USER,
    REMOTE_USER,
    SESSION,
)

SITE = "tests.integration.web.django_addons_site"
BY_GATEWAY = ["django.contrib.auth.backends.RemoteUserBackend"]


def site(*middleware: str, **more: Any) -> Any:
    return override_settings(
        ROOT_URLCONF=SITE, MIDDLEWARE=[SESSION, AUTHENTICATION, *middleware], **more
    )


@pytest.fixture(autouse=True)
def _device(django_authority: testing.Authority) -> Iterator[None]:
    device = StaticDevice.objects.create(user=User.objects.get(username="ada"), name="codes")
    yield
    device.delete()


@pytest.mark.parametrize(
    "between",
    [OTP, HIJACK, REMOTE_USER, PERSISTENT_REMOTE_USER, f"{SITE}.wrapping"],
)
def test_check_names_the_middleware_that_must_come_later(between: str) -> None:
    with (
        site("django.contrib.messages.middleware.MessageMiddleware", between, OURS),
        pytest.raises(SystemCheckError) as caught,
    ):
        call_command("check")
    said = str(caught.value)
    assert f"{between} comes before SessionAuthorityMiddleware" in said
    assert f"Move {OURS} up, directly after {AUTHENTICATION}." in said
    assert "MessageMiddleware" not in said
    with site(OURS, between):
        call_command("check")


def test_check_accepts_subclasses_of_the_middleware() -> None:
    with override_settings(MIDDLEWARE=[SESSION, f"{SITE}.OwnAuthentication", f"{SITE}.Ours"]):
        call_command("check")


def test_a_user_verified_by_django_otp_can_still_be_revoked(
    django_authority: testing.Authority,
) -> None:
    with site(OURS, OTP), django_authority.client() as client:
        browser = Browser()
        browser.sign_in()
        assert browser.get("/me").json()["verified"] is False
        assert browser.get("/vault").status_code == 302
        assert browser.get("/code").content == b"verified"
        assert browser.get("/vault").content == b"gold"

        client.sign_out(browser.token)

        assert browser.get("/vault").status_code == 302
        assert browser.get("/me").json() == {
            "user": None,
            "verified": False,
            "hijacked": None,
            "actor": None,
        }


def test_a_login_with_two_factors_records_both_methods(django_authority: testing.Authority) -> None:
    with site(OURS, OTP), django_authority.client() as client:
        browser = Browser()
        browser.get("/sign-in-with-code")
        assert browser.get("/vault").content == b"gold"
        assert client.list(browser.token)[0].authentication_methods == ("pwd", "otp")


def same_browser(before: Browser) -> Browser:
    """Return a browser with the same cookies. A new client is needed, since a client keeps its first middleware."""
    browser = Browser(accept="application/json")
    browser.cookies = before.cookies
    return browser


@pytest.mark.parametrize(("path", "status"), [("/api/profile", 403), ("/private", 302)])
def test_rest_framework_and_login_required_refuse_a_revoked_session(
    django_authority: testing.Authority, path: str, status: int
) -> None:
    with site(OURS):
        first = Browser()
        first.sign_in()
    with site(OURS, LOGIN_REQUIRED), django_authority.client() as client:
        browser = same_browser(first)
        assert browser.get(path).json()["user"] == "ada"
        with django_authority.outage():
            assert browser.get(path).status_code == 503
        assert browser.get(path).json()["user"] == "ada"
        client.sign_out(browser.token)
        assert browser.get(path).status_code == status


@pytest.mark.parametrize("middleware", [REMOTE_USER, PERSISTENT_REMOTE_USER])
def test_a_user_named_by_a_gateway_gets_one_session(
    django_authority: testing.Authority, middleware: str
) -> None:
    with (
        site(OURS, middleware, AUTHENTICATION_BACKENDS=BY_GATEWAY),
        django_authority.client() as client,
    ):
        browser = Browser()
        for _ in range(3):
            assert browser.get("/me", REMOTE_USER="ada").json()["user"] == "ada"
        (session,) = client.list(browser.token)
        assert session.user_id == user_id()
        assert session.authentication_methods == ()

        token = browser.token
        without = browser.get("/me").json()["user"]
        if middleware == REMOTE_USER:
            assert without is None
            assert not client.validate(token)
        else:
            assert without == "ada"
            client.sign_out(token)
            assert browser.get("/me").json()["user"] is None


def test_another_user_named_by_the_gateway_gets_another_session(
    django_authority: testing.Authority,
) -> None:
    with (
        site(OURS, REMOTE_USER, AUTHENTICATION_BACKENDS=BY_GATEWAY),
        django_authority.client() as client,
    ):
        browser = Browser()
        browser.get("/me", REMOTE_USER="ada")
        token = browser.token
        assert browser.get("/me", REMOTE_USER="grace").json()["user"] == "grace"
        assert not client.validate(token)
        assert client.require(browser.token).user_id == user_id("grace")


def test_a_login_before_auth_session_exists_raises(
    django_authority: testing.Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with site(REMOTE_USER, OURS, AUTHENTICATION_BACKENDS=BY_GATEWAY):
        browser = Browser()
        assert browser.get("/me", REMOTE_USER="ada").status_code == 500
        assert "sessionid" not in browser.cookies
    assert "login() was called before request.auth_session exists" in caplog.text
    assert f"put {OURS} directly after {AUTHENTICATION}" in caplog.text


def test_a_logout_before_auth_session_exists_raises(
    django_authority: testing.Authority, caplog: pytest.LogCaptureFixture
) -> None:
    browser = Browser()
    with site(OURS, REMOTE_USER, AUTHENTICATION_BACKENDS=BY_GATEWAY):
        assert browser.get("/me", REMOTE_USER="ada").json()["user"] == "ada"
    with site(REMOTE_USER, OURS, AUTHENTICATION_BACKENDS=BY_GATEWAY):
        assert same_browser(browser).get("/me").status_code == 500
    assert "logout() was called before request.auth_session exists" in caplog.text
