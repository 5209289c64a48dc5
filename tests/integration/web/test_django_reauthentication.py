"""How users of a Django site confirm their identity and return to their page."""

from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from session_authority import SessionClient, testing
from tests.integration.web.django_browser import Browser

from django.contrib.auth.models import User  # isort: skip
from django.http import HttpResponse  # isort: skip
from django.template.loader import render_to_string  # isort: skip
from django.test import override_settings  # isort: skip
from django.urls import include, path  # isort: skip
from django.utils.decorators import method_decorator  # isort: skip
from rest_framework.response import Response  # isort: skip
from rest_framework.views import APIView  # isort: skip
from tests.integration.web.django_site import me, sign_in  # isort: skip
from session_authority.web.django.decorators import recent_authentication  # isort: skip
from session_authority.web.django.reauthentication import ReauthenticateView  # isort: skip
from session_authority.web.django.requests import SessionRequest  # isort: skip

CONFIRM = "/account/sessions/reauthenticate"
HOUR = timedelta(hours=1)


@recent_authentication(minutes=10)
def vault(request: SessionRequest) -> HttpResponse:
    return HttpResponse(request.auth_session.require().user_id)


def act(request: Any) -> HttpResponse:
    request.auth_session.actor_id = "support"
    return sign_in(request)


class Vault(APIView):  # type: ignore[misc]
    @method_decorator(recent_authentication(minutes=10))
    def get(self, request: Any) -> Response:
        return Response("gold")


class ConfirmKey(ReauthenticateView):
    authentication_methods = ("hwk",)


urlpatterns = [
    path("sign-in", sign_in),
    path("act", act),
    path("me", me),
    path("vault", vault),
    path("vaults/<path:name>", lambda request, name: vault(request)),
    path("api/vault", Vault.as_view()),
    path("confirm-key", ConfirmKey.as_view()),
    path("guarded-confirm", recent_authentication(minutes=10)(ConfirmKey.as_view())),
    path("account/sessions", include("session_authority.web.django.urls")),
    path("elsewhere/", include("session_authority.web.django.urls", namespace="elsewhere")),
]


@pytest.fixture(autouse=True)
def _site(django_authority: testing.Authority) -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client(django_authority: testing.Authority) -> Iterator[SessionClient]:
    with django_authority.client() as client:
        yield client


@pytest.fixture
def browser(django_authority: testing.Authority) -> Browser:
    """Return a browser whose user signed in an hour ago."""
    browser = Browser()
    browser.sign_in()
    assert browser.get("/vault").status_code == 200
    django_authority.advance(HOUR)
    return browser


def confirm(browser: Browser, address: str, password: str = "pass") -> Any:
    return browser.post(address, {"password": password})


def test_a_user_confirms_the_password_and_returns(browser: Browser, client: SessionClient) -> None:
    sent = browser.get("/vault?x=1").headers["Location"]
    assert sent == f"{CONFIRM}?next=%2Fvault%3Fx%3D1"
    page = browser.get(sent)
    assert "You're logged in as ada" in page.content.decode()
    assert "no-store" in page.headers["Cache-Control"]

    back = confirm(browser, sent)

    assert back.headers["Location"] == "/vault?x=1"
    assert browser.get("/vault").status_code == 200
    assert client.require(browser.token).authentication_methods == ("pwd",)


@pytest.mark.parametrize("password", ["wrong", "", "pass "])
def test_a_wrong_password_changes_nothing(browser: Browser, password: str) -> None:
    token = browser.token
    page = confirm(browser, CONFIRM, password)
    assert page.status_code == 200
    assert "errorlist" in page.content.decode()
    assert browser.token == token
    assert browser.get("/vault").status_code == 302


def test_the_password_of_another_user_is_refused(browser: Browser) -> None:
    User.objects.create_user("eve", password="other")
    try:
        assert confirm(browser, CONFIRM, "other").status_code == 200
        assert browser.get("/vault").status_code == 302
    finally:
        User.objects.filter(username="eve").delete()


@pytest.mark.parametrize(
    "given",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        CONFIRM,
        CONFIRM + "/",
        CONFIRM + "?next=/vault",
        "",
    ],
)
def test_the_redirect_leads_neither_to_another_site_nor_to_the_confirming_page(
    browser: Browser, given: str
) -> None:
    with override_settings(LOGIN_REDIRECT_URL="/home"):
        sent = browser.post(f"{CONFIRM}?next={given}", {"password": "pass"})
    assert sent.headers["Location"] == "/home"


def test_after_a_refused_form_django_returns_to_the_page_with_the_form(browser: Browser) -> None:
    referer = {"referer": "https://app.example/settings"}
    sent = browser.post("/vault", headers=referer).headers["Location"]
    assert sent == f"{CONFIRM}?next=%2Fsettings"
    assert browser.post("/vault").headers["Location"] == CONFIRM


def test_a_visitor_without_a_session_signs_in_instead(
    browser: Browser, client: SessionClient
) -> None:
    client.sign_out(browser.token)
    assert browser.get(f"{CONFIRM}?next=/vault").headers["Location"] == "/login/?next=/vault"
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    from django.conf import settings

    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, required]):
        sent = Browser().get(f"{CONFIRM}?next=/vault").headers["Location"]
    assert sent == "/login/?next=/vault"


def test_a_confirming_page_that_is_itself_guarded_gets_403_instead_of_a_redirect_loop(
    browser: Browser,
) -> None:
    from django.conf import settings

    page = {"reauthenticate_url": "/guarded-confirm"}
    with override_settings(SESSION_AUTHORITY={**settings.SESSION_AUTHORITY, "PAGE": page}):
        assert browser.get("/vault").headers["Location"] == "/guarded-confirm?next=%2Fvault"
        assert browser.get("/guarded-confirm").status_code == 403


@pytest.mark.parametrize("name", ["a%20b", "%C3%A4", "a%3Fb", "a%25b"])
def test_a_path_with_any_characters_is_returned_to(browser: Browser, name: str) -> None:
    sent = browser.get(f"/vaults/{name}").headers["Location"]
    back = confirm(browser, sent)
    assert back.headers["Location"] == f"/vaults/{name}"


@pytest.mark.parametrize("path", ["/vault", "/api/vault"])
@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_a_program_gets_403_instead_of_a_redirect(browser: Browser, path: str, accept: str) -> None:
    """Programs and scripts send `Accept: */*` by default."""
    refused = browser.get(path, headers={"accept": accept})
    assert refused.status_code == 403
    assert refused.json() == {
        "detail": "Please confirm your identity first.",
        "max_authentication_age_seconds": "600",
    }


def test_a_site_without_our_pages_answers_403(browser: Browser) -> None:
    bare = ModuleType("bare_urls")
    bare.urlpatterns = [path("vault", vault)]  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=bare):
        refused = browser.get("/vault")
    assert refused.status_code == 403
    assert refused.content == b"Please confirm your identity first."


def test_an_actor_cannot_confirm_the_users_identity(client: SessionClient) -> None:
    browser = Browser()
    browser.get("/act", {"user": "ada"})
    assert browser.get(CONFIRM).status_code == 403
    assert confirm(browser, CONFIRM).status_code == 403


def test_a_subclass_sets_its_authentication_methods(
    browser: Browser, client: SessionClient
) -> None:
    assert confirm(browser, "/confirm-key").status_code == 302
    assert client.require(browser.token).authentication_methods == ("hwk",)


def test_a_form_of_another_site_is_refused(browser: Browser) -> None:
    strict = Browser()
    strict.handler.enforce_csrf_checks = True
    strict.cookies = browser.cookies
    assert confirm(strict, CONFIRM).status_code == 403


def test_the_confirming_page_exists_below_any_include(browser: Browser) -> None:
    assert browser.get("/elsewhere/reauthenticate").status_code == 200
    assert browser.get("/account/sessions/reauthenticate/more").status_code == 404


def test_the_sessions_page_links_to_the_confirming_page_if_the_policy_requires_a_proof(
    django_database: None,
) -> None:
    from session_authority.testing.django import connected

    with testing.authority(max_authentication_age=HOUR) as strict, connected(strict):
        browser = Browser()
        browser.sign_in()
        strict.advance(HOUR * 2)
        page = browser.get("/account/sessions")
        assert page.status_code == 403
        assert f'href="{CONFIRM}?next=' in page.content.decode()


def test_an_outage_during_the_confirmation_is_a_503(
    browser: Browser, django_authority: testing.Authority
) -> None:
    with django_authority.outage():
        assert confirm(browser, CONFIRM).status_code == 503
    assert browser.who() == "ada"


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_an_age_that_no_proof_can_have_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match="more than 0 minutes"):
        recent_authentication(minutes=minutes)


@pytest.mark.parametrize("name", ["reauthenticate", "unavailable"])
def test_the_pages_of_the_library_are_styled(name: str) -> None:
    page = render_to_string(f"session_authority/{name}.html")
    assert page.startswith("<!doctype html>")
    assert "color-scheme: light dark" in page
    assert "<h1>" in page
