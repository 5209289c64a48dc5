"""Properties of a session that a Django site sets at login, and users who share a browser."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from session_authority import Identity, SessionClient, testing
from tests.integration.web.django_browser import COOKIE, Browser, user_id

from django.contrib.auth import aget_user, alogin, alogout, login, logout  # isort: skip
from django.contrib.auth.models import User  # isort: skip
from django.core.exceptions import ImproperlyConfigured  # isort: skip
from django.db import connections  # isort: skip
from django.http import HttpRequest, HttpResponse, JsonResponse  # isort: skip
from django.test import AsyncClient, Client, RequestFactory, override_settings  # isort: skip
from django.urls import path  # isort: skip
from rest_framework.test import APIClient  # isort: skip
from session_authority.web.django.options import options  # isort: skip

BACKEND = "django.contrib.auth.backends.ModelBackend"
MINUTES = timedelta(minutes=1)
DAY = timedelta(days=1)

described: dict[str, Any] = {}
"""Options of the next login."""


def sign_in(request: Any) -> HttpResponse:
    if request.GET.get("expiry") == "before":
        request.session.set_expiry(0)
    for name, value in described.items():
        setattr(request.auth_session, name, value)
    login(request, User.objects.get(username=request.GET.get("user", "ada")), BACKEND)
    if request.GET.get("expiry") == "after":
        request.session.set_expiry(0)
    return HttpResponse("in")


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("out")


def confirm(request: Any) -> HttpResponse:
    request.auth_session.reauthenticate(methods=["pwd"])
    return HttpResponse("again")


def me(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"user": request.user.get_username() or None})


def rotate(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse("rotated")


def flush(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse("flushed")


async def ame(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"user": (await request.auser()).get_username() or None})


async def asign_in(request: HttpRequest) -> JsonResponse:
    before = (await request.auser()).get_username() or None
    await alogin(request, await User.objects.aget(username=request.GET["user"]), BACKEND)
    return JsonResponse({"before": before, "user": request.user.get_username()})


async def asign_out(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return HttpResponse((await aget_user(request)).get_username() or "anonymous")


urlpatterns = [
    path("sign-in", sign_in),
    path("sign-out", sign_out),
    path("confirm", confirm),
    path("me", me),
    path("rotate", rotate),
    path("flush", flush),
    path("async/me", ame),
    path("async/sign-in", asign_in),
    path("async/sign-out", asign_out),
]


@pytest.fixture(autouse=True)
def _site(django_authority: testing.Authority) -> Iterator[None]:
    described.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield
    connections.close_all()


@pytest.fixture
def client(django_authority: testing.Authority) -> Iterator[SessionClient]:
    with django_authority.client() as client:
        yield client


def with_setting(**more: Any) -> Any:
    from django.conf import settings

    return override_settings(SESSION_AUTHORITY={**settings.SESSION_AUTHORITY, **more})


def test_a_login_sets_the_properties_of_its_session(
    client: SessionClient, django_authority: testing.Authority
) -> None:
    began = django_authority.now - 5 * MINUTES
    described.update(
        methods=["hwk"],
        authenticate_time=began,
        lifetime=DAY,
        idle_timeout=10 * MINUTES,
        attributes={"tenant": "t-1"},
        actor_id="support",
        identity=Identity("https://id.example", "u-1", "s-1"),
    )
    browser = Browser()
    browser.sign_in()
    session = client.require(browser.token)
    assert session.user_id == user_id()
    assert session.authentication_methods == ("hwk",)
    assert session.authenticate_time == began
    assert session.expire_time - session.create_time == DAY
    assert session.idle_expire_time is not None
    assert session.idle_expire_time - session.last_active_time == 10 * MINUTES
    assert session.attributes == {"tenant": "t-1"}
    assert session.actor_id == "support"
    client.revoke_identity("https://id.example", sid="s-1")
    assert not client.validate(browser.token)


def test_a_login_by_an_actor_records_no_password(client: SessionClient) -> None:
    described.update(actor_id="support")
    browser = Browser()
    browser.sign_in()
    assert client.require(browser.token).authentication_methods == ()


@pytest.mark.parametrize("site_default", [True, False])
@pytest.mark.parametrize("chosen", [True, False, None])
def test_both_cookies_are_as_persistent_as_the_login_chose(
    site_default: bool, chosen: bool | None
) -> None:
    stays = site_default if chosen is None else chosen
    described.update(persistent=chosen)
    with with_setting(COOKIE_PERSISTENT=site_default):
        browser = Browser()
        signed_in = browser.get("/sign-in")
        again = browser.get("/confirm")
        for answer in (signed_in, again):
            assert bool(answer.cookies[COOKIE]["max-age"]) is stays
        if chosen is not None:
            assert bool(signed_in.cookies["sessionid"]["max-age"]) is stays


@pytest.mark.parametrize(
    ("expiry", "settings"),
    [
        ("before", {}),
        ("after", {}),
        ("", {"SESSION_EXPIRE_AT_BROWSER_CLOSE": True}),
    ],
)
def test_a_login_that_ends_with_the_browser_has_an_idle_timeout(
    client: SessionClient, expiry: str, settings: dict[str, Any]
) -> None:
    with override_settings(**settings):
        browser = Browser()
        signed_in = browser.get("/sign-in", {"expiry": expiry})
        session = client.require(browser.token)
        assert session.idle_expire_time is not None
        assert session.idle_expire_time - session.last_active_time == DAY
        assert len(client.list(browser.token)) == 1
        again = browser.get("/confirm")
        for answer in (signed_in, again):
            assert answer.cookies[COOKIE]["max-age"] == ""
        assert browser.who() == "ada"


def test_a_site_can_set_or_remove_the_idle_timeout_of_browser_logins(client: SessionClient) -> None:
    browser = Browser()
    with with_setting(BROWSER_IDLE_TIMEOUT=30 * MINUTES):
        browser.get("/sign-in", {"expiry": "after"})
        session = client.require(browser.token)
        assert session.idle_expire_time is not None
        assert session.idle_expire_time - session.last_active_time == 30 * MINUTES
    with with_setting(BROWSER_IDLE_TIMEOUT=None):
        browser.get("/sign-in", {"expiry": "after"})
        assert client.require(browser.token).idle_expire_time is None


def test_a_login_with_its_own_lifetime_gets_no_idle_timeout(client: SessionClient) -> None:
    described.update(lifetime=DAY)
    for expiry in ("before", "after"):
        browser = Browser()
        browser.get("/sign-in", {"expiry": expiry})
        assert client.require(browser.token).idle_expire_time is None


@pytest.mark.parametrize("expiry", ["before", "after"])
def test_a_shorter_idle_timeout_of_the_policy_applies(django_database: None, expiry: str) -> None:
    from session_authority.testing.django import connected

    with testing.authority(idle_timeout=5 * MINUTES) as strict, connected(strict) as client:
        browser = Browser()
        browser.get("/sign-in", {"expiry": expiry})
        session = client.require(browser.token)
        assert session.idle_expire_time is not None
        assert session.idle_expire_time - session.last_active_time == 5 * MINUTES
        assert len(client.list(browser.token, show_ended=True)) == 1


def test_an_outage_after_the_login_leaves_it_without_an_idle_timeout(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site_client = options().client
    site_client.sign_out(
        "ses_" + "0" * 70
    )  # connects, so that later validations use the real method
    run, calls = site_client.run_operation, []

    def fail_later(operation: Any) -> Any:
        calls.append(operation)
        if len(calls) == 1:
            return run(operation)
        with SessionClient("127.0.0.1:9", deadline_seconds=0.2) as nowhere:
            return nowhere.run_operation(operation)

    monkeypatch.setattr(site_client, "run_operation", fail_later)
    browser = Browser()
    assert browser.get("/sign-in", {"expiry": "after"}).status_code == 200
    monkeypatch.undo()
    assert "got no idle timeout" in caplog.text
    assert browser.who() == "ada"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "BROWSER_IDLE_TIMEOUT",
            3600,
            "must be a timedelta of at least a minute, or None, not 3600",
        ),
        ("BROWSER_IDLE_TIMEOUT", timedelta(seconds=1), "at least a minute"),
        ("CLOCK", "noon", "CLOCK must be a function that returns the time, not str"),
    ],
)
def test_an_invalid_django_setting_is_named(key: str, value: object, said: str) -> None:
    with with_setting(**{key: value}), pytest.raises(ImproperlyConfigured, match=said):
        options()


def test_two_users_of_one_browser_never_share_a_session(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in("ada")
    adas, adas_login = browser.token, browser.cookies["sessionid"].value
    browser.get("/sign-out")
    browser.sign_in("grace")
    assert browser.who() == "grace"
    assert not client.validate(adas)
    assert [each.user_id for each in client.list(browser.token)] == [user_id("grace")]

    browser.cookies["sessionid"] = adas_login
    assert browser.who() is None
    browser.sign_in("ada")  # grace is not signed out
    assert browser.who() == "ada"
    assert [each.user_id for each in client.list(browser.token)] == [user_id("ada")]


@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "signed_cookies", "file"])
def test_a_login_is_revocable_with_every_session_engine_of_django(
    client: SessionClient, engine: str, tmp_path: Any
) -> None:
    with override_settings(
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}", SESSION_FILE_PATH=tmp_path
    ):
        browser = Browser()
        browser.sign_in()
        browser.get("/rotate")
        assert browser.who() == "ada"
        client.sign_out(browser.token)
        assert browser.who() is None

        browser.sign_in()
        browser.get("/flush")
        assert browser.who() is None


def test_the_test_client_can_log_in(
    client: SessionClient, django_authority: testing.Authority
) -> None:
    ada = User.objects.get(username="ada")
    for browser in (Client(), APIClient()):
        browser.force_login(ada)
        assert browser.get("/me").json()["user"] == "ada"
        browser.get("/confirm")
        assert browser.get("/me").json()["user"] == "ada"
        browser.logout()
        assert browser.get("/me").json()["user"] is None
    browser = Client()
    assert browser.login(username="ada", password="pass")
    other = client.create(user_id()).token
    assert len(client.list(other)) == 2  # logout() ended the earlier ones
    django_authority.advance(timedelta(days=91))
    assert browser.get("/me").json()["user"] is None


def test_the_latest_login_applies_however_it_was_made() -> None:
    ada, grace = (User.objects.get(username=name) for name in ("ada", "grace"))
    browser = Browser()
    browser.sign_in("ada")
    browser.force_login(grace)
    assert browser.who() == "grace"
    browser.sign_in("ada")
    assert browser.who() == "ada"
    browser.force_login(ada)
    browser.sign_in("ada")
    assert browser.who() == "ada"


async def test_the_asynchronous_test_client_can_log_in(
    django_authority: testing.Authority,
) -> None:
    browser = AsyncClient()
    await browser.aforce_login(await User.objects.aget(username="ada"))
    assert (await browser.get("/async/me")).json()["user"] == "ada"
    await browser.alogout()
    assert (await browser.get("/async/me")).json()["user"] is None


def test_outside_of_tests_a_login_without_a_request_is_anonymous(
    django_authority: testing.Authority,
) -> None:
    with SessionClient("127.0.0.1:9") as nowhere, with_setting(CLIENT=nowhere):
        browser = Client()
        browser.force_login(User.objects.get(username="ada"))
        browser.logout()
        browser.force_login(User.objects.get(username="ada"))
    assert browser.get("/me").json()["user"] is None


def test_a_login_with_a_request_that_passed_no_middleware_raises(
    django_authority: testing.Authority,
) -> None:
    request: Any = RequestFactory().get("/")
    request.session = Client().session
    with pytest.raises(ImproperlyConfigured, match=r"before request\.auth_session exists"):
        login(request, User.objects.get(username="ada"), BACKEND)
    assert request.session.is_empty()


async def test_asynchronous_logins_replace_each_other(client: SessionClient) -> None:
    browser = AsyncClient(headers={"host": "app.example"})
    first = await browser.get("/async/sign-in?user=ada", secure=True)
    assert first.json() == {"before": None, "user": "ada"}
    token = browser.cookies[COOKIE].value
    second = await browser.get("/async/sign-in?user=grace", secure=True)
    assert second.json() == {"before": "ada", "user": "grace"}
    assert not client.validate(token)
    assert (await browser.get("/async/me", secure=True)).json()["user"] == "grace"
    assert (await browser.get("/async/sign-out", secure=True)).content == b"anonymous"
    assert (await browser.get("/async/me", secure=True)).json()["user"] is None
