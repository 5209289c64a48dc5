"""Adoption of logins from before the deployment."""

from datetime import datetime

import pytest

from django.contrib.sessions.models import Session as DjangoSession  # isort: skip
from session_authority import SessionClient
from tests.integration.web.django.site import BEFORE, existing_login, settings
from tests.integration.web.django_browser import COOKIE, Browser, user_id
from tests.integration.web.threaded_authority import ThreadedAuthority

pytestmark = pytest.mark.usefixtures("django_database")


def test_a_login_from_before_the_deployment_ends_unless_it_is_adopted() -> None:
    browser = existing_login()
    assert browser.who() is None
    assert browser.cookies["sessionid"].value == ""


def test_a_deployment_that_adopts_logins_keeps_every_user_signed_in(client: SessionClient) -> None:
    browser = existing_login()
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() == "ada"
        (session,) = client.list(browser.token)
        assert session.authenticate_time == datetime.fromisoformat(BEFORE)
        assert session.ip_address is None
        assert session.authentication_methods == ()
        assert browser.who() == "ada"
    assert browser.who() == "ada"
    assert len(client.list(browser.token)) == 1


def test_a_deployment_time_in_the_future_keeps_every_user_signed_in(client: SessionClient) -> None:
    browser = existing_login()
    with settings(client, ADOPT_EXISTING="2999-01-01T00:00+00:00"):
        assert browser.who() == "ada"


def test_concurrent_requests_adopt_a_login_once(client: SessionClient) -> None:
    first = existing_login()
    second = Browser()
    second.cookies["sessionid"] = first.cookies["sessionid"].value
    key = first.cookies["sessionid"].value
    unmarked = DjangoSession.objects.get(session_key=key).session_data
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert first.who() == "ada"
        # The second request read this before the first one wrote its mark.
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        assert second.who() == "ada"
        assert second.token == first.token
        assert len(client.list(first.token)) == 1
        # The third request has no token cookie, and comes from another user agent.
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        third = Browser(**{"user-agent": "Firefox"})
        third.cookies["sessionid"] = key
        assert third.who() is None
        assert not third.cookies[COOKIE].value if COOKIE in third.cookies else True
        assert first.who() == "ada"


def test_a_login_without_a_mark_is_recognized_by_its_token(client: SessionClient) -> None:
    browser = existing_login()
    browser.cookies[COOKIE] = client.create(user_id()).token.reveal()
    assert browser.who() == "ada"
    other = existing_login()
    other.cookies[COOKIE] = client.create(user_id("grace")).token.reveal()
    assert other.who() is None


def test_an_adopted_login_that_was_revoked_cannot_be_adopted_again(client: SessionClient) -> None:
    browser = existing_login()
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() == "ada"
        login = browser.cookies["sessionid"].value
        client.sign_out(browser.token)
        browser.cookies.pop(COOKIE)

        assert browser.who() is None
        browser.cookies["sessionid"] = login
        assert browser.who() is None


def test_a_revoked_login_stays_out_even_if_a_slow_request_overwrote_its_mark(
    authority: ThreadedAuthority, client: SessionClient
) -> None:
    browser = existing_login()
    key = browser.cookies["sessionid"].value
    unmarked = DjangoSession.objects.get(session_key=key).session_data
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() == "ada"
        client.sign_out(browser.token)
        authority.authority.pass_time(
            minutes=11
        )  # the time in which a sign-in can be retried is over
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        thief = Browser()
        thief.cookies["sessionid"] = key
        assert thief.who() is None
        assert thief.cookies["sessionid"].value == ""
        assert not client.validate(thief.token)


def test_logins_that_ended_since_the_deployment_are_not_adopted(
    authority: ThreadedAuthority, client: SessionClient
) -> None:
    browser = existing_login()
    authority.authority.pass_time(seconds=1)
    client.revoke_others(client.create(user_id()).token)
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() is None
