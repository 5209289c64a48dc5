import asyncio
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from tests.integration.web.django_site import (  # configures Django, before all else of it
    SIGNED_IN,
)

from django.contrib.auth.models import User  # isort: skip
from django.contrib.sessions.models import Session as DjangoSession  # isort: skip
from django.core.exceptions import ImproperlyConfigured  # isort: skip
from django.core.management import call_command  # isort: skip
from django.core.management.base import SystemCheckError  # isort: skip
from django.db import connections  # isort: skip
from django.http import HttpRequest  # isort: skip
from django.urls import reverse  # isort: skip
from django.test import AsyncClient, Client, override_settings  # isort: skip

from session_authority import SessionClient, SessionLimitReached
from session_authority.web.django.auth_session import OWED
from session_authority.web.django.middleware import SessionAuthorityMiddleware
from session_authority_server.domain.token import mint
from tests.integration.web.django_browser import COOKIE, Browser, user_id
from tests.integration.web.threaded_authority import ThreadedAuthority, threaded_authority
from tests.support.authority import PATIENCE_SECONDS
from tests.unit.client.conftest import until

SETTING = "SESSION_AUTHORITY"
BEFORE = "2026-01-15T12:00+00:00"


pytestmark = pytest.mark.usefixtures("django_database")


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[ThreadedAuthority]:
    with threaded_authority(tmp_path) as running:
        yield running


@pytest.fixture
def client(authority: ThreadedAuthority) -> Iterator[SessionClient]:
    with SessionClient(
        authority.address, api_key=authority.key, deadline_seconds=PATIENCE_SECONDS
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def site(client: SessionClient) -> Iterator[None]:
    with override_settings(SESSION_AUTHORITY={"CLIENT": client}):
        yield
    DjangoSession.objects.all().delete()


def down(**more: Any) -> Any:
    """Give the site an authority that isn't there."""
    return override_settings(
        SESSION_AUTHORITY={"CLIENT": SessionClient("127.0.0.1:9", deadline_seconds=1)} | more
    )


def settings(client: SessionClient, **more: Any) -> Any:
    return override_settings(SESSION_AUTHORITY={"CLIENT": client} | more)


@pytest.mark.parametrize(
    ("headers", "clears"),
    [
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;prerender"}, False),
        ({"purpose": "prefetch"}, False),
    ],
)
def test_only_a_page_that_is_being_opened_clears_cookies(
    client: SessionClient, headers: dict[str, str], clears: bool
) -> None:
    """Others may have started before a new login, whose cookies they would clear: ours and Django's."""
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


def test_login_and_logout_work_as_ever(client: SessionClient) -> None:
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


def test_the_cookie_is_one_that_scripts_and_other_sites_do_not_get() -> None:
    answer = Browser().get("/sign-in", {"user": "ada"})

    morsel = answer.cookies[COOKIE]
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "Lax")
    assert (morsel["path"], morsel["domain"], morsel["max-age"]) == ("/", "", 34_560_000)
    assert "no-store" in answer.headers["Cache-Control"]


def test_the_cookie_goes_with_the_browser_where_the_login_does() -> None:
    browser = Browser()
    answer = browser.get("/sign-in", {"user": "ada", "shared": "yes"})
    assert answer.cookies["sessionid"]["max-age"] == ""
    assert answer.cookies[COOKIE]["max-age"] == ""
    assert browser.get("/sign-out").cookies[COOKIE]["max-age"] == 0


def test_a_login_by_other_means_than_the_password_says_so(client: SessionClient) -> None:
    browser = Browser()
    browser.get("/sign-in", {"user": "ada", "methods": "hwk,user"})
    (session,) = client.list(browser.token)
    assert session.authentication_methods == ("hwk", "user")


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


def test_a_login_without_its_token_is_none_whatever_is_left_of_it(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in()
    token = browser.token
    stolen = browser.cookies["sessionid"].value

    thief = Browser()
    thief.cookies["sessionid"] = stolen
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert thief.who() is None

    assert client.validate(token)  # which the thief has not touched
    assert len(client.list(token)) == 1


def test_the_token_of_another_session_does_not_make_a_login_good(client: SessionClient) -> None:
    for other in ("ada", "grace"):
        browser = Browser()
        browser.sign_in()
        browser.cookies[COOKIE] = client.create(user_id(other)).token.reveal()
        assert browser.who() is None


def test_whom_nobody_asks_for_is_not_looked_up(authority: ThreadedAuthority) -> None:
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


def test_a_request_asks_once(authority: ThreadedAuthority) -> None:
    browser = Browser()
    browser.sign_in()
    authority.authority.store.asked.clear()
    assert browser.get("/me?greet=1").json()["user"] == "ada"
    assert authority.authority.store.asked == ["read_sessions"]


@pytest.mark.parametrize("path", ["/me", "/private", "/sign-out", "/me?greet=1", "/vault"])
def test_an_outage_is_a_503_that_signs_nobody_out(path: str) -> None:
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
        assert "unavailable" in browser.get("/me").json()["detail"]


def test_a_site_without_templates_says_in_json_that_there_is_an_outage() -> None:
    browser = Browser(accept="text/html")
    browser.sign_in()
    with down(), override_settings(TEMPLATES=[]):
        answer = browser.get("/me")
    assert answer.status_code == 503
    assert "unavailable" in answer.json()["detail"]


def test_a_login_that_the_authority_could_not_record_does_not_stand() -> None:
    browser = Browser()
    with down():
        answer = browser.get("/sign-in", {"user": "ada"})
    assert answer.status_code == 503
    assert COOKIE not in answer.cookies
    with down(ADOPT_EXISTING=BEFORE):
        assert browser.get("/me").json()["user"] is None


def test_a_site_that_hides_the_failure_is_not_logged_in_to_either(client: SessionClient) -> None:
    browser = Browser()
    with down():
        assert browser.get("/sign-in-anyway", {"user": "ada"}).content == b"nobody"
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() is None


@pytest.mark.parametrize("path", ["/stumble", "/async/stumble"])
def test_a_login_whose_request_fails_leaves_no_session_behind(
    client: SessionClient, path: str
) -> None:
    """Django doesn't save its own after a fault, so nobody would be logged in by it."""
    other = client.create(user_id())
    browser = Browser()
    browser.sign_in()

    assert browser.get(path, {"user": "ada"}).status_code == 500

    assert [each.current for each in client.list(other.token)] == [True]
    assert browser.who() is None


def test_at_the_limit_of_sessions_a_login_is_refused(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise SessionLimitReached

    browser = Browser()
    monkeypatch.setattr(client, "run_operation", refuse)
    answer = browser.get("/sign-in", {"user": "ada"})
    assert answer.status_code == 403
    assert b"too many devices" in answer.content


def test_a_fault_of_ones_own_is_not_hidden(
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


def existing_login(name: str = "ada") -> Browser:
    """Log in as before Session Authority was there."""
    browser = Browser()
    browser.force_login(User.objects.get(username=name))
    return browser


def test_a_login_of_before_is_over_unless_it_is_to_be_adopted() -> None:
    browser = existing_login()
    assert browser.who() is None
    assert browser.cookies["sessionid"].value == ""


def test_a_deploy_that_adopts_signs_nobody_out(client: SessionClient) -> None:
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


def test_a_deploy_that_still_lies_ahead_signs_nobody_out(client: SessionClient) -> None:
    browser = existing_login()
    with settings(client, ADOPT_EXISTING="2999-01-01T00:00+00:00"):
        assert browser.who() == "ada"


def test_requests_that_come_in_at_once_adopt_one_session(client: SessionClient) -> None:
    first = existing_login()
    second = Browser()
    second.cookies["sessionid"] = first.cookies["sessionid"].value
    key = first.cookies["sessionid"].value
    unmarked = DjangoSession.objects.get(session_key=key).session_data
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert first.who() == "ada"
        # What the second read before the first had written.
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        assert second.who() == "ada"
        assert second.token == first.token
        assert len(client.list(first.token)) == 1
        # And before the browser had the first's cookie, from another device it seems.
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        third = Browser(**{"user-agent": "Firefox"})
        third.cookies["sessionid"] = key
        assert third.who() is None
        assert not third.cookies[COOKIE].value if COOKIE in third.cookies else True
        assert first.who() == "ada"


def test_a_login_whose_mark_was_lost_is_known_by_its_token(client: SessionClient) -> None:
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


def test_a_mark_that_a_slow_request_overwrote_opens_no_way_back(
    authority: ThreadedAuthority, client: SessionClient
) -> None:
    browser = existing_login()
    key = browser.cookies["sessionid"].value
    unmarked = DjangoSession.objects.get(session_key=key).session_data
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() == "ada"
        client.sign_out(browser.token)
        authority.authority.pass_time(minutes=11)  # beyond the repetition of a sign-in
        DjangoSession.objects.filter(session_key=key).update(session_data=unmarked)
        thief = Browser()
        thief.cookies["sessionid"] = key
        assert thief.who() is None
        assert thief.cookies["sessionid"].value == ""
        assert not client.validate(thief.token)


def test_what_was_ended_since_the_deploy_is_not_adopted(
    authority: ThreadedAuthority, client: SessionClient
) -> None:
    browser = existing_login()
    authority.authority.pass_time(seconds=1)
    client.revoke_others(client.create(user_id()).token)
    with settings(client, ADOPT_EXISTING=BEFORE):
        assert browser.who() is None


def test_a_change_of_password_signs_out_everywhere_else(client: SessionClient) -> None:
    laptop, other = Browser(), client.create(user_id()).token
    laptop.sign_in()

    assert laptop.get("/change-password").content == b"changed"

    assert not client.validate(other)
    assert laptop.who() == "ada"


def test_a_change_of_password_in_an_outage_signs_out_elsewhere_when_it_is_over(
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


def test_a_change_of_password_can_leave_others_alone(client: SessionClient) -> None:
    laptop, other = Browser(), client.create(user_id()).token
    laptop.sign_in()
    with settings(client, REVOKE_OTHERS_ON_PASSWORD_CHANGE=False):
        laptop.get("/change-password")
    assert client.validate(other)


def test_a_new_login_in_the_same_browser_ends_the_one_before(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in()
    first = browser.token
    browser.sign_in()
    assert not client.validate(first)
    browser.sign_in("grace")
    assert browser.who() == "grace"
    assert len(client.list(browser.token)) == 1


def test_what_needs_a_recent_proof_is_shut_until_it_is_given(client: SessionClient) -> None:
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


def test_the_page_shows_and_ends_sessions(client: SessionClient) -> None:
    laptop, phone = Browser(), Browser()
    assert laptop.get("/account/sessions").status_code == 401
    laptop.sign_in()
    phone.sign_in()

    page = laptop.get("/account/sessions")
    assert page.status_code == 200
    proof = _proof(page.content.decode())
    headers = {"origin": "https://app.example"}
    ended = laptop.post(
        "/account/sessions/log-out-elsewhere",
        f"proof={proof}&confirmed=1",
        **_form,
        headers=headers,
    )
    assert ended.status_code in {200, 303}
    assert phone.who() is None
    assert laptop.who() == "ada"

    left = laptop.post("/account/sessions/sign-out", f"proof={proof}", **_form, headers=headers)
    assert left.cookies[COOKIE]["max-age"] == 0
    assert left.cookies["sessionid"].value == ""
    assert laptop.who() is None


_form: dict[str, Any] = {"content_type": "application/x-www-form-urlencoded"}


def _proof(page: str) -> str:
    found = re.search(r'name="proof" value="([^"]+)"', page)
    assert found, page
    return found[1]


class CutOff(io.BytesIO):
    """The body of a connection that has ended, as gunicorn hands it on."""

    def read(self, *_args: Any) -> bytes:
        raise OSError("client disconnected")


@pytest.mark.parametrize("body", [io.BytesIO, CutOff])
def test_a_form_that_is_cut_off_is_not_carried_out(
    client: SessionClient, body: type[io.BytesIO]
) -> None:
    browser = Browser()
    browser.sign_in()
    form = f"proof={_proof(browser.get('/account/sessions').content.decode())}"

    cut_off: Any = {"CONTENT_LENGTH": str(len(form) + 20), "wsgi.input": body(form.encode())}
    answer = browser.post("/account/sessions/sign-out", **_form, **cut_off)

    assert answer.status_code == 400
    assert client.validate(browser.token)


def test_the_page_at_a_path_beyond_ascii_leads_back_to_it(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in()
    page = browser.get("/konto/sitz\u00fcngen").content.decode()

    left = browser.post(
        "/konto/sitz\u00fcngen/sign-out",
        f"proof={_proof(page)}",
        **_form,
        headers={"origin": "https://app.example", "sec-fetch-site": "same-origin"},
    )

    assert 'action="/konto/sitz%C3%BCngen/' in page
    assert (left.status_code, left.headers["location"]) == (303, "/konto/sitz%C3%BCngen")


@pytest.mark.parametrize("root", ["/account/sessions", "/elsewhere"])
def test_the_page_knows_its_place_however_it_is_included(root: str) -> None:
    browser = Browser()
    browser.sign_in()
    assert reverse("session_authority:sessions") == "/account/sessions"
    for path in (root, root + "/"):
        page = browser.get(path)
        if page.status_code == 301:  # by Django itself, to the form with a slash
            continue
        assert f'action="{root}/' in page.content.decode()
    assert browser.get(root + "/sessions.json").status_code == 200
    assert browser.get(root + "/nothing").status_code == 404
    assert browser.get("/account/sessionsx").status_code == 404


def test_the_page_tells_how_long_an_ending_takes_where_its_client_has_a_near_cache(
    authority: ThreadedAuthority,
) -> None:
    Browser().sign_in()
    browser = Browser()
    browser.sign_in()
    assert "within" not in browser.get("/account/sessions").content.decode()
    with (
        SessionClient(authority.address, api_key=authority.key, near_cache=True) as cached,
        override_settings(SESSION_AUTHORITY={"CLIENT": cached}),
    ):
        assert "within 2 seconds" in browser.get("/account/sessions").content.decode()


def test_the_page_refuses_what_no_form_of_its_own_sends() -> None:
    browser = Browser()
    browser.sign_in()
    proof = _proof(browser.get("/account/sessions").content.decode())
    for origin in ("https://evil.example", "null"):
        answer = browser.post(
            "/account/sessions/sign-out", f"proof={proof}", **_form, headers={"origin": origin}
        )
        assert answer.status_code == 403
    assert browser.who() == "ada"
    assert browser.get("/account/sessions", headers={"host": "evil.example"}).status_code == 400


def test_the_page_survives_an_outage_and_keeps_the_cookie() -> None:
    browser = Browser()
    browser.sign_in()
    one = f"{COOKIE}={browser.token}"
    with down():
        for cookie in (one, f"{one}; {COOKIE}=ses_b"):
            answer = Client(headers={"host": "app.example", "cookie": cookie}).get(
                "/account/sessions", secure=True
            )
            assert answer.status_code == 503
            assert not answer.cookies


def test_made_up_cookies_lock_out_nobody_who_is_signed_in(tmp_path: Path) -> None:
    folder = tmp_path / "limited"
    folder.mkdir()
    with (
        threaded_authority(folder, rejected_tokens_per_minute=2) as authority,
        SessionClient(authority.address, api_key=authority.key) as client,
        settings(client),
    ):
        browser, attacker = Browser(), Browser()
        browser.sign_in()
        for number in range(5):
            made_up = [mint(datetime.now(UTC)).encode() for _ in range(4)]
            cookie = "; ".join(f"{COOKIE}={token}" for token in made_up)
            answer = attacker.get("/me", headers={"cookie": cookie})
            assert answer.json()["user"] is None
            # Each request counts once. The first two are rejections; a refusal keeps the cookie.
            assert (COOKIE in answer.cookies) == (number < 2)
            assert browser.who() == "ada"


def test_the_page_takes_the_live_one_of_several_tokens(client: SessionClient) -> None:
    token = client.create(user_id()).token.reveal()
    cookie = f"{COOKIE}=ses_{'0' * 70}; {COOKIE}={token}"
    answer = Client(headers={"host": "app.example", "cookie": cookie}).get(
        "/account/sessions", secure=True
    )
    assert 'name="proof"' in answer.content.decode()


def test_behind_a_trusted_proxy_the_list_says_where_users_are(client: SessionClient) -> None:
    browser = Browser(**{"x-forwarded-for": "9.9.9.9, 198.51.100.9"})
    with settings(client, TRUSTED_PROXIES=["203.0.113.0/24"]):
        browser.sign_in()
    (session,) = client.list(browser.token)
    assert session.ip_address == "198.51.100.9"


async def test_asynchronous_views_have_it_all(client: SessionClient) -> None:
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


async def test_an_outage_is_a_503_in_asynchronous_views_too() -> None:
    browser = AsyncClient()
    await browser.get("/async/sign-in?user=ada", secure=True)
    with down():
        assert (await browser.get("/async/me", secure=True)).status_code == 503
    assert (await browser.get("/async/me", secure=True)).json()["user"] == "ada"
    await sync_to_async(connections.close_all)()


async def test_a_login_whose_request_is_cancelled_leaves_no_session(client: SessionClient) -> None:
    """Django cancels a request whose browser has gone."""
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


def test_the_settings_are_checked_before_anything_runs(client: SessionClient) -> None:
    call_command("check")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ADRESS": "x"}, "has no ADRESS; it has CLIENT"),
        ({"CLIENT": "127.0.0.1:1"}, "CLIENT is a SessionClient"),
        ({"COOKIE_NAME": "a b"}, "cookie's name"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8"}, "not one str"),
        ({"FORWARDING_HEADER": "x-real-ip"}, "x-forwarded-for"),
        ({"ADOPT_EXISTING": True}, "moment of the deploy"),
        ({"ADOPT_EXISTING": "2026-01-01T00:00"}, "time zone"),
        ({"PAGE": {"sign_in_url": "javascript:x"}}, "sign_in_url"),
        ({"PAGE": {"colour": "red"}}, "colour"),
    ]
    for given, problem in wrong:
        with (
            override_settings(SESSION_AUTHORITY=given),
            pytest.raises(SystemCheckError, match=re.escape(problem)),
        ):
            call_command("check")


def test_a_middleware_that_is_missing_or_misplaced_is_noticed() -> None:
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


def test_the_client_comes_from_the_environment_unless_given(
    monkeypatch: pytest.MonkeyPatch, client: SessionClient
) -> None:
    monkeypatch.setenv("SESSION_AUTHORITY_ADDRESS", client._settings.address)
    monkeypatch.setenv("SESSION_AUTHORITY_API_KEY", client._settings.api_key or "")
    with override_settings(SESSION_AUTHORITY={}):
        browser = Browser()
        browser.sign_in()
        assert browser.who() == "ada"
