"""The sessions page in a Django site."""

import io
import re
from typing import Any

import pytest

from django.urls import reverse  # isort: skip
from django.test import Client, override_settings  # isort: skip
from session_authority import SessionClient
from tests.integration.web.django.site import down, settings
from tests.integration.web.django_browser import COOKIE, Browser
from tests.integration.web.threaded_authority import ThreadedAuthority

pytestmark = pytest.mark.usefixtures("django_database")


def test_the_page_shows_and_ends_sessions(client: SessionClient) -> None:
    laptop, phone = Browser(), Browser()
    assert laptop.get("/account/sessions").status_code == 401
    laptop.sign_in()
    phone.sign_in()

    page = laptop.get("/account/sessions")
    assert page.status_code == 200
    proof = proof_on(page.content.decode())
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


def proof_on(page: str) -> str:
    found = re.search(r'name="proof" value="([^"]+)"', page)
    assert found, page
    return found[1]


class CutOff(io.BytesIO):
    """The body of a connection that was cut, as gunicorn passes it to Django."""

    def read(self, *_args: Any) -> bytes:
        raise OSError("client disconnected")


@pytest.mark.parametrize("body", [io.BytesIO, CutOff])
def test_a_form_that_was_cut_off_is_ignored(client: SessionClient, body: type[io.BytesIO]) -> None:
    browser = Browser()
    browser.sign_in()
    form = f"proof={proof_on(browser.get('/account/sessions').content.decode())}"

    cut_off: Any = {"CONTENT_LENGTH": str(len(form) + 20), "wsgi.input": body(form.encode())}
    answer = browser.post("/account/sessions/sign-out", **_form, **cut_off)

    assert answer.status_code == 400
    assert client.validate(browser.token)


def test_the_page_works_at_a_path_with_non_ascii_letters(client: SessionClient) -> None:
    browser = Browser()
    browser.sign_in()
    page = browser.get("/konto/sitz\u00fcngen").content.decode()

    left = browser.post(
        "/konto/sitz\u00fcngen/sign-out",
        f"proof={proof_on(page)}",
        **_form,
        headers={"origin": "https://app.example", "sec-fetch-site": "same-origin"},
    )

    assert 'action="/konto/sitz%C3%BCngen/' in page
    assert (left.status_code, left.headers["location"]) == (303, "/konto/sitz%C3%BCngen")


@pytest.mark.parametrize("root", ["/account/sessions", "/elsewhere"])
def test_the_page_links_to_its_own_path_for_every_kind_of_include(root: str) -> None:
    browser = Browser()
    browser.sign_in()
    assert reverse("session_authority:sessions") == "/account/sessions"
    for path in (root, root + "/"):
        page = browser.get(path)
        if page.status_code == 301:  # Django redirects to the path with a slash
            continue
        assert f'action="{root}/' in page.content.decode()
    assert browser.get(root + "/sessions.json").status_code == 200
    assert browser.get(root + "/nothing").status_code == 404
    assert browser.get("/account/sessionsx").status_code == 404


def test_the_page_states_the_revocation_delay_if_its_client_has_a_near_cache(
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


def test_the_page_refuses_requests_that_none_of_its_forms_sends() -> None:
    browser = Browser()
    browser.sign_in()
    proof = proof_on(browser.get("/account/sessions").content.decode())
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


def test_behind_a_trusted_proxy_the_list_shows_the_users_address(client: SessionClient) -> None:
    browser = Browser(**{"x-forwarded-for": "9.9.9.9, 198.51.100.9"})
    with settings(client, TRUSTED_PROXIES=["203.0.113.0/24"]):
        browser.sign_in()
    (session,) = client.list(browser.token)
    assert session.ip_address == "198.51.100.9"
