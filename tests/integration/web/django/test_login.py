"""Logging in to a Django site, and the user of a request."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async

from tests.integration.web.django_site import (  # configures Django before its imports
    SIGNED_IN,
)

from django.db import connections  # isort: skip
from django.test import AsyncClient, override_settings  # isort: skip
from session_authority import SessionClient, SessionLimitReached
from session_authority.web.django.auth_session import OWED
from tests.integration.web.django.site import BEFORE, down, existing_login, settings
from tests.integration.web.django_browser import COOKIE, Browser, user_id
from tests.integration.web.threaded_authority import ThreadedAuthority
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("django_database")


@pytest.mark.parametrize(
    ("headers", "clears"),
    [
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;prerender"}, False),
        ({"purpose": "prefetch"}, False),
    ],
)
def test_only_a_navigation_clears_the_cookies_of_a_dead_session(
    client: SessionClient, headers: dict[str, str], clears: bool
) -> None:
    """Any other request may have started before a newer login, whose two cookies it would clear."""
    browser = Browser()
    browser.sign_in()
    client.sign_out(browser.token)

    for path in ("/me", "/account/sessions"):
        answer = browser.get(path, headers=headers)
        if path == "/me":
            assert answer.json()["user"] is None
        if not clears:
            assert not answer.cookies
    if clears:
        assert {name for name, cookie in browser.cookies.items() if not cookie.value} == {
            COOKIE,
            "sessionid",
        }


def test_login_and_logout_work_as_in_django_alone(client: SessionClient) -> None:
    browser = Browser()
    assert browser.who() is None

    browser.sign_in()

    assert browser.who() == "ada"
    (session,) = client.list(browser.token)
    assert session.user_id == user_id()
    assert session.ip_address == "203.0.113.7"
    assert session.device.display_name == "curl"
    assert session.authentication_methods == ("pwd",)

    token = browser.token
    answer = browser.get("/sign-out")
    assert answer.cookies[COOKIE]["max-age"] == 0
    assert browser.who() is None
    assert not client.validate(token)


def test_scripts_and_other_sites_do_not_get_the_cookie() -> None:
    answer = Browser().get("/sign-in", {"user": "ada"})

    morsel = answer.cookies[COOKIE]
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "Lax")
    assert (morsel["path"], morsel["domain"], morsel["max-age"]) == ("/", "", 34_560_000)
    assert "no-store" in answer.headers["Cache-Control"]


def test_a_revoked_session_is_anonymous_at_the_next_request(client: SessionClient) -> None:
    laptop, phone = Browser(), Browser()
    laptop.sign_in()
    phone.sign_in()

    assert laptop.get("/revoke-others").status_code == 200

    refused = phone.get("/me")
    assert refused.json()["user"] is None
    assert refused.cookies[COOKIE]["max-age"] == 0
    assert laptop.who() == "ada"
    assert phone.get("/private").headers["Location"] == "/login/?next=/private"


def test_a_login_without_its_token_is_anonymous(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in()
    token = browser.token
    stolen = browser.cookies["sessionid"].value

    thief = Browser()
    thief.cookies["sessionid"] = stolen
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert thief.who() is None

    assert client.validate(token)  # the thief could not change it
    assert len(client.list(token)) == 1


def test_a_login_with_the_token_of_another_session_is_anonymous(client: SessionClient) -> None:
    for other in ("ada", "grace"):
        browser = Browser()
        browser.sign_in()
        browser.cookies[COOKIE] = client.create(user_id(other)).token.reveal()
        assert browser.who() is None


def test_a_request_whose_view_does_not_read_the_user_makes_no_call(
    authority: ThreadedAuthority,
) -> None:
    browser = Browser()
    browser.sign_in()
    authority.authority.store.asked.clear()

    assert browser.get("/").content == b"welcome"
    assert "Vary" not in browser.get("/").headers
    assert authority.authority.store.asked == []
    with down():
        assert browser.get("/").content == b"welcome"
    assert Browser().who() is None
    assert authority.authority.store.asked == []


def test_a_request_validates_the_session_once(authority: ThreadedAuthority) -> None:
    browser = Browser()
    browser.sign_in()
    authority.authority.store.asked.clear()
    assert browser.get("/me?greet=1").json()["user"] == "ada"
    assert authority.authority.store.asked == ["read_sessions"]


@pytest.mark.parametrize("path", ["/me", "/private", "/sign-out", "/me?greet=1", "/vault"])
def test_an_outage_is_a_503_and_keeps_users_signed_in(path: str) -> None:
    browser = Browser()
    browser.sign_in()
    token, login = browser.token, browser.cookies["sessionid"].value

    with down():
        answer = browser.get(path)

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not answer.cookies
    assert (browser.token, browser.cookies["sessionid"].value) == (token, login)
    assert browser.who() == "ada"


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_programs_get_json_in_an_outage(accept: str) -> None:
    browser = Browser(accept=accept)
    browser.sign_in()
    with down():
        assert "check your session" in browser.get("/me").json()["detail"]


def test_a_site_without_templates_reports_an_outage_in_json() -> None:
    browser = Browser(accept="text/html")
    browser.sign_in()
    with down(), override_settings(TEMPLATES=[]):
        answer = browser.get("/me")
    assert answer.status_code == 503
    assert "check your session" in answer.json()["detail"]


def test_a_login_fails_if_the_authority_cannot_create_the_session() -> None:
    browser = Browser()
    with down():
        answer = browser.get("/sign-in", {"user": "ada"})
    assert answer.status_code == 503
    assert COOKIE not in answer.cookies
    with down(ADOPT_EXISTING=BEFORE):
        assert browser.get("/me").json()["user"] is None


def test_a_site_that_catches_the_error_logs_no_user_in(client: SessionClient) -> None:
    browser = Browser()
    with down():
        assert browser.get("/sign-in-anyway", {"user": "ada"}).content == b"anonymous"
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() is None


@pytest.mark.parametrize("path", ["/stumble", "/async/stumble"])
def test_a_login_whose_request_fails_leaves_no_session_behind(
    client: SessionClient, path: str
) -> None:
    """After an exception, Django does not save its session. So the login does not exist, and its session must end."""
    other = client.create(user_id())
    browser = Browser()
    browser.sign_in()

    assert browser.get(path, {"user": "ada"}).status_code == 500

    assert [each.current for each in client.list(other.token)] == [True]
    assert browser.who() is None


def test_a_login_over_the_session_limit_is_refused(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise SessionLimitReached

    browser = Browser()
    monkeypatch.setattr(client, "run_operation", refuse)
    answer = browser.get("/sign-in", {"user": "ada"})
    assert answer.status_code == 403
    assert b"too many devices" in answer.content


def test_an_error_of_the_site_itself_is_not_hidden(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser()
    browser.sign_in()
    monkeypatch.setattr(client, "validate", lambda *_arguments, **_more: 1 / 0)
    assert browser.get("/me").status_code == 500


def test_a_superseded_token_neither_ends_the_login_nor_clears_the_cookie(
    client: SessionClient,
) -> None:
    browser = Browser()
    browser.sign_in()
    old = browser.token
    assert browser.get("/reauthenticate").status_code == 200
    successor = browser.token
    assert successor != old

    slow = Browser()
    slow.cookies["sessionid"] = browser.cookies["sessionid"].value
    slow.cookies[COOKIE] = str(old)
    late = slow.get("/me")

    assert late.json()["user"] is None
    assert not late.cookies
    assert browser.get("/me").json()["methods"] == ["pwd", "otp"]


def test_a_password_change_ends_the_users_other_sessions(client: SessionClient) -> None:
    laptop, other = Browser(), client.create(user_id()).token
    laptop.sign_in()

    assert laptop.get("/change-password").content == b"changed"

    assert not client.validate(other)
    assert laptop.who() == "ada"


def test_a_password_change_in_an_outage_ends_the_other_sessions_after_it(
    client: SessionClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, other = Browser(), client.create(user_id()).token
    laptop.sign_in()
    with (
        SessionClient("127.0.0.1:9", deadline_seconds=1) as nowhere,
        monkeypatch.context() as patch,
    ):
        patch.setattr(client, "revoke_others", nowhere.revoke_others)
        assert laptop.get("/change-password").content == b"changed"
    assert client.validate(other)
    assert "not ended yet" in caplog.text

    assert laptop.who() == "ada"

    assert not client.validate(other)
    assert OWED not in laptop.session


def test_a_password_change_can_keep_the_other_sessions(client: SessionClient) -> None:
    laptop, other = Browser(), client.create(user_id()).token
    laptop.sign_in()
    with settings(client, REVOKE_OTHERS_ON_PASSWORD_CHANGE=False):
        laptop.get("/change-password")
    assert client.validate(other)


def test_a_sensitive_view_is_refused_until_the_user_reauthenticates(client: SessionClient) -> None:
    browser = Browser()
    assert browser.get("/vault").headers["Location"] == "/login/?next=/vault"
    browser.sign_in()
    assert browser.get("/vault").content == b"gold"

    browser = _with_old_proof(client)
    sent = browser.get("/vault").headers["Location"]
    assert sent == "/account/sessions/reauthenticate?next=%2Fvault"
    with settings(client, PAGE={"reauthenticate_url": "/prove?again=1"}):
        answer = browser.get("/vault?x=1")
        assert answer.status_code == 302
        assert answer.headers["Location"] == "/prove?again=1&next=%2Fvault%3Fx%3D1"

    browser.get("/reauthenticate")
    assert browser.get("/vault").content == b"gold"


def _with_old_proof(client: SessionClient) -> Browser:
    browser = existing_login()
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    browser.cookies[COOKIE] = client.create(user_id(), authenticate_time=hour_ago).token.reveal()
    return browser


async def test_asynchronous_views_can_use_all_functions(client: SessionClient) -> None:
    browser = AsyncClient()
    assert (await browser.get("/async/me", secure=True)).json() == {"user": None, "session": False}
    login = await browser.get("/async/vault", secure=True)
    assert login.headers["Location"].startswith("/login/")

    await browser.get("/async/sign-in?user=ada", secure=True)
    assert (await browser.get("/async/me", secure=True)).json() == {"user": "ada", "session": True}
    assert (await browser.get("/async/vault", secure=True)).content == b"gold"

    old = browser.cookies[COOKIE].value
    other = client.create("1").token
    assert (await browser.get("/async/again", secure=True)).content == b"again"
    assert browser.cookies[COOKIE].value != old
    assert not client.validate(other)

    token = browser.cookies[COOKIE].value
    assert (await browser.get("/async/sign-out", secure=True)).content == b"out"
    assert not client.validate(token)
    assert (await browser.get("/async/me", secure=True)).json()["user"] is None
    await sync_to_async(connections.close_all)()


async def test_an_outage_is_a_503_in_asynchronous_views() -> None:
    browser = AsyncClient()
    await browser.get("/async/sign-in?user=ada", secure=True)
    with down():
        assert (await browser.get("/async/me", secure=True)).status_code == 503
    assert (await browser.get("/async/me", secure=True)).json()["user"] == "ada"
    await sync_to_async(connections.close_all)()


async def test_a_login_whose_request_is_cancelled_leaves_no_session(client: SessionClient) -> None:
    """Django cancels a request whose browser has disconnected."""
    other = client.create("1").token
    SIGNED_IN.clear()
    asking = asyncio.create_task(AsyncClient().get("/async/wait?user=ada", secure=True))
    await until(SIGNED_IN.is_set)
    assert len(client.list(other)) == 2

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: len(client.list(other)) == 1)
    await sync_to_async(connections.close_all)()
