"""The PHP example in a real browser: it signs users in, lists their sessions and logs a device out."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from session_authority.web.cookies import SessionCookie
from session_authority_server.domain.errors import StoreUnavailable
from tests.browser.chromium import EXECUTABLE, launch
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.support.json_gateway import JsonGateway, json_gateway
from tests.support.postgresql import free_port
from tests.support.waiting import wait_until

SITE = Path(__file__).parents[2] / "examples" / "php_site"
PASSWORD = {"user": "ada", "password": "lovelace"}
# Without TLS, and so without its set-up, which takes 25 ms.
get = partial(httpx.get, verify=False)
post = partial(httpx.post, verify=False)
LIMIT_MILLISECONDS = 60_000  # generous: the machine may be busy


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonGateway]:
    with json_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@contextmanager
def serving(gateway: JsonGateway, folder: Path, **environment: str) -> Iterator[str]:
    """Run the site with PHP's own web server, and yield its origin."""
    php = shutil.which("php")
    if php is None:
        pytest.skip("NO PHP ON THIS MACHINE: nothing is known about the PHP example")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "php.log").open("wb") as log:
        process = subprocess.Popen(
            [php, "-S", address, "-t", SITE, SITE / "index.php"],
            env=os.environ | gateway.environment | environment,
            stdout=log,
            stderr=log,
        )
    try:
        host, port = address.split(":")
        wait_until(lambda: _listens(host, int(port)))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(host: str, port: int) -> bool:
    with closing(socket.socket()) as connection:
        return connection.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def site(gateway: JsonGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    with serving(gateway, folder) as origin:
        yield origin
    assert "ses_" not in (folder / "php.log").read_text()
    assert "Warning" not in (folder / "php.log").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip("NO CHROMIUM ON THIS MACHINE: nothing is known about the site in a browser")
    with sync_playwright() as driver:
        running = launch(driver)
        yield running
        running.close()


def signed_in(browser: Browser, site: str, user_agent: str) -> Page:
    """Sign in on a new device, and return its page."""
    context = browser.new_context(base_url=site, user_agent=user_agent)
    context.set_default_timeout(LIMIT_MILLISECONDS)
    page = context.new_page()
    page.goto("/")
    expect(page).to_have_title("Sign in")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("lovelace")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_title("Your sessions", timeout=LIMIT_MILLISECONDS)
    return page


def test_the_second_device_logs_out_the_first(browser: Browser, site: str) -> None:
    first = signed_in(browser, site, CHROME_ON_WINDOWS)
    second = signed_in(browser, site, FIREFOX_ON_LINUX)
    rows = second.get_by_role("listitem")
    expect(rows.filter(has_text="this device")).to_contain_text("Firefox on Linux")
    second.get_by_role("button", name="Log out Chrome on Windows").click()
    expect(rows.filter(has_text="Chrome on Windows")).to_have_count(0, timeout=LIMIT_MILLISECONDS)

    first.reload()
    expect(first).to_have_title("Sign in")
    assert first.context.cookies() == []
    second.reload()
    expect(second).to_have_title("Your sessions")
    second.get_by_role("button", name="Sign out").click()
    expect(second).to_have_title("Sign in")
    assert second.context.cookies() == []


def test_all_other_devices_are_logged_out_at_once(browser: Browser, site: str) -> None:
    first, second = (
        signed_in(browser, site, each) for each in (CHROME_ON_WINDOWS, FIREFOX_ON_LINUX)
    )
    second.get_by_role("button", name="Log out all other devices").click()
    expect(second.get_by_role("listitem")).to_have_count(1, timeout=LIMIT_MILLISECONDS)
    first.reload()
    expect(first).to_have_title("Sign in")


def sign_in(site: str, host: str = "", scheme: str = "http") -> httpx.Response:
    headers = {"origin": f"{scheme}://{host}" if host else site} | ({"host": host} if host else {})
    return post(f"{site}/sign-in", data=PASSWORD, headers=headers)


def test_the_cookie_is_that_of_the_python_integrations(
    gateway: JsonGateway, site: str, tmp_path: Path
) -> None:
    cookie = SessionCookie()
    answer = sign_in(site)
    header = answer.headers["set-cookie"]
    token = next(iter(SimpleCookie(header).values())).value
    assert header == cookie.holding(token, local=True).header()

    with serving(gateway, tmp_path, SITE_IS_HTTPS="on") as behind_tls:
        header = sign_in(behind_tls, "shop.example", "https").headers["set-cookie"]
        token = header.partition("=")[2].partition(";")[0]
        assert header == cookie.holding(token, local=False).header()
        forged = {"cookie": f"{cookie.name(local=False)}=ses_x", "host": "shop.example"}
        answer = get(behind_tls, headers=forged)
        [cleared] = cookie.cleared(local=False)
        assert (answer.status_code, answer.headers["set-cookie"]) == (303, cleared.header())


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_form_of_another_site_changes_nothing(site: str, origin: str) -> None:
    cookies = {"auth_session": sign_in(site).cookies["auth_session"]}
    headers = {"origin": origin} if origin else {}
    for path in ("/sign-in", "/log-out-others", "/sign-out"):
        answer = post(site + path, data=PASSWORD, headers=headers, cookies=cookies)
        assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    assert get(site, cookies=cookies).status_code == 200


def test_a_new_sign_in_ends_the_earlier_session_of_the_browser(
    gateway: JsonGateway, site: str
) -> None:
    earlier = sign_in(site).cookies["auth_session"]
    again = post(
        f"{site}/sign-in",
        data=PASSWORD,
        headers={"origin": site},
        cookies={"auth_session": earlier},
    )
    assert again.status_code == 303
    assert "rejection" in gateway.call("ValidateSession", sessionToken=earlier)
    later = again.cookies["auth_session"]
    assert "session" in gateway.call("ValidateSession", sessionToken=later)


def test_an_outage_keeps_the_cookie(gateway: JsonGateway, site: str) -> None:
    cookies = {"auth_session": sign_in(site).cookies["auth_session"]}
    store = gateway.threaded.authority.store
    store.failure = StoreUnavailable("reading")
    try:
        answer = get(site, cookies=cookies, timeout=30)
    finally:
        store.failure = None
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "set-cookie" not in answer.headers
    assert get(site, cookies=cookies).status_code == 200


def test_hostile_input_gets_an_answer_without_a_warning(site: str) -> None:
    cookies = {"auth_session": sign_in(site).cookies["auth_session"]}
    headers = {"origin": site}
    wrong = {"user[]": "ada", "password[]": "x"}
    assert post(f"{site}/sign-in", data=wrong, headers=headers).status_code == 401
    page = get(f"{site}/?page[]=x", cookies=cookies)
    assert (page.status_code, "Warning" in page.text) == (200, False)
    assert get(f"{site}/?page=x", cookies=cookies).status_code == 400
    revoked = post(f"{site}/log-out", data={"session_id": "<b>"}, headers=headers, cookies=cookies)
    assert (revoked.status_code, "<b>" in revoked.text) == (400, False)
    assert get(site, headers={"cookie": "auth_session[]=x"}).status_code == 303
