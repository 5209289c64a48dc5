"""Staff who act as another user with django-hijack."""

from collections.abc import Iterator
from typing import Any

import pytest

from session_authority import Session, SessionClient, testing
from session_authority.web.django.own_session import is_hijack
from tests.integration.web.django_browser import Browser, user_id

from django.contrib.auth.models import User  # isort: skip
from django.test import modify_settings, override_settings  # isort: skip
from tests.integration.web.django_addons_site import (  # isort: skip
    AUTHENTICATION,
    HIJACK,
    OURS,
    SESSION,
)

OWN_COOKIE = "__Host-auth_session_own"


@pytest.fixture(autouse=True)
def _site(django_authority: testing.Authority) -> Iterator[None]:
    boss = User.objects.create_superuser("boss", password="pass")
    with override_settings(
        ROOT_URLCONF="tests.integration.web.django_addons_site",
        MIDDLEWARE=[SESSION, AUTHENTICATION, OURS, HIJACK],
        HIJACK_INSERT_BEFORE=None,
    ):
        yield
    boss.delete()


@pytest.fixture
def client(django_authority: testing.Authority) -> Iterator[SessionClient]:
    with django_authority.client() as client:
        yield client


@pytest.fixture
def boss() -> Browser:
    browser = Browser()
    browser.sign_in("boss")
    return browser


def act_as(browser: Browser, name: str) -> Any:
    return browser.post("/hijack/acquire/", {"user_pk": user_id(name)})


def release(browser: Browser) -> Any:
    return browser.post("/hijack/release/")


def sessions_of(client: SessionClient, name: str, **more: Any) -> list[Session]:
    """List a user's sessions, except the session that this function creates to list them."""
    with_token = client.create(user_id(name)).token
    found = [each for each in client.list(with_token, **more) if not each.current]
    client.sign_out(with_token)
    return found


def test_the_borrowed_session_names_the_actor_and_has_no_methods(
    boss: Browser, client: SessionClient
) -> None:
    assert act_as(boss, "ada").status_code == 302
    me = boss.get("/me").json()
    assert (me["user"], me["hijacked"], me["actor"]) == ("ada", True, user_id("boss"))
    (borrowed,) = sessions_of(client, "ada")
    assert borrowed.actor_id == user_id("boss")
    assert borrowed.authentication_methods == ()


def test_the_actors_own_session_continues_and_returns_on_release(
    boss: Browser, client: SessionClient
) -> None:
    own = boss.token
    act_as(boss, "ada")
    borrowed = boss.token
    assert borrowed != own
    assert client.validate(own)

    assert release(boss).status_code == 302

    assert boss.get("/me").json()["user"] == "boss"
    assert boss.token == own
    assert boss.cookies[OWN_COOKIE].value == ""
    assert not client.validate(borrowed)
    assert len(sessions_of(client, "boss")) == 1
    assert boss.get("/me").json()["actor"] is None


def test_an_actor_whose_own_session_was_revoked_stops_acting(
    boss: Browser, client: SessionClient
) -> None:
    own = boss.token
    act_as(boss, "ada")
    borrowed = boss.token
    client.sign_out(own)

    assert boss.get("/me").json()["user"] is None
    assert not client.validate(borrowed)
    assert release(boss).status_code in {302, 403}
    assert boss.get("/me").json()["user"] is None


def test_an_actor_without_their_own_cookie_stops_acting(
    boss: Browser, client: SessionClient
) -> None:
    act_as(boss, "ada")
    borrowed = boss.token
    del boss.cookies[OWN_COOKIE]
    assert boss.get("/me").json()["user"] is None
    assert not client.validate(borrowed)


def test_an_own_cookie_with_another_session_stops_the_acting(
    boss: Browser, client: SessionClient
) -> None:
    act_as(boss, "ada")
    boss.cookies[OWN_COOKIE] = client.create(user_id("boss")).token.reveal()
    assert boss.get("/me").json()["user"] is None


def test_after_its_user_revoked_the_borrowed_session_there_is_no_way_back(
    boss: Browser, client: SessionClient
) -> None:
    act_as(boss, "ada")
    client.sign_out(boss.token)
    assert boss.get("/me").json()["user"] is None
    assert release(boss).status_code in {302, 403}
    assert boss.get("/me").json()["user"] is None
    boss.sign_in("boss")
    assert len(sessions_of(client, "boss")) == 1  # the staff member's earlier session has ended


def test_an_actor_who_acts_as_a_second_user_stays_the_actor(
    boss: Browser, client: SessionClient
) -> None:
    own = boss.token
    User.objects.filter(username="ada").update(is_superuser=True)
    try:
        act_as(boss, "ada")
        act_as(boss, "grace")
        me = boss.get("/me").json()
        assert (me["user"], me["actor"]) == ("grace", user_id("boss"))
        assert sessions_of(client, "ada") == []

        release(boss)
        me = boss.get("/me").json()
        assert (me["user"], me["actor"]) == ("ada", user_id("boss"))
        release(boss)
        assert boss.get("/me").json()["user"] == "boss"
        assert boss.token == own
    finally:
        User.objects.filter(username="ada").update(is_superuser=False)


@pytest.mark.parametrize("how", ["logout", "page"])
def test_signing_out_while_acting_ends_both_sessions(
    boss: Browser, client: SessionClient, how: str
) -> None:
    own = boss.token
    act_as(boss, "ada")
    borrowed = boss.token
    if how == "logout":
        boss.get("/sign-out")
    else:
        client.sign_out(borrowed)
        boss.get("/account/sessions")
    assert not client.validate(own)
    assert not client.validate(borrowed)
    assert boss.cookies[OWN_COOKIE].value == ""


def test_another_sign_in_while_acting_ends_both_sessions(
    boss: Browser, client: SessionClient
) -> None:
    own = boss.token
    act_as(boss, "ada")
    borrowed = boss.token
    boss.sign_in("grace")
    assert not client.validate(own)
    assert not client.validate(borrowed)
    assert boss.get("/me").json()["user"] == "grace"


def test_an_outage_while_acting_changes_nothing(
    boss: Browser, django_authority: testing.Authority
) -> None:
    act_as(boss, "ada")
    with django_authority.outage():
        assert boss.get("/me").status_code == 503
        assert release(boss).status_code == 503
    assert boss.get("/me").json()["user"] == "ada"
    release(boss)
    assert boss.get("/me").json()["user"] == "boss"


def test_an_actor_keeps_the_own_session_if_the_request_fails(
    boss: Browser, client: SessionClient
) -> None:
    from hijack.signals import hijack_started

    def fail(**_more: object) -> None:
        raise ZeroDivisionError

    own = boss.token
    hijack_started.connect(fail)
    try:
        assert act_as(boss, "ada").status_code == 500
    finally:
        hijack_started.disconnect(fail)
    assert boss.token == own
    assert boss.get("/me").json()["user"] == "boss"
    assert sessions_of(client, "ada") == []


def test_a_cookie_that_ends_with_the_browser_still_does_after_acting(boss: Browser) -> None:
    shared = Browser()
    shared.get("/sign-in", {"user": "boss", "shared": "yes"})
    for answer in (act_as(shared, "ada"), release(shared)):
        assert answer.cookies["__Host-auth_session"]["max-age"] == ""


def test_a_persistent_cookie_is_still_persistent_after_acting(
    django_authority: testing.Authority,
) -> None:
    from django.conf import settings

    brief = {**settings.SESSION_AUTHORITY, "COOKIE_PERSISTENT": False}
    with override_settings(SESSION_AUTHORITY=brief):
        browser = Browser()
        browser.get("/sign-in-to-stay", {"user": "boss"})
        act_as(browser, "ada")
        assert release(browser).cookies["__Host-auth_session"]["max-age"]


def test_without_django_hijack_no_view_counts_as_its_own() -> None:
    with modify_settings(INSTALLED_APPS={"remove": "hijack"}):
        assert not is_hijack(lambda: None)
