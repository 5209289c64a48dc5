from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from session_authority import NewSession
from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.policy import Policy
from tests.browser.chromium import EXECUTABLE, launch
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.browser.site import COOKIE, ROOT, Site, running_site

LIMIT_MILLISECONDS = 60_000  # generous: the machine may be busy

expect.set_options(timeout=LIMIT_MILLISECONDS)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with running_site(folder, policy) as running:
        yield running


# Each module starts its own browser. No asynchronous test can run in this process until the browser is closed.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip("NO CHROMIUM ON THIS MACHINE: nothing is known about the page in a browser")
    with sync_playwright() as driver:
        running = launch(driver)
        yield running
        running.close()


@pytest.fixture(autouse=True)
def restored_site(site: Site) -> Iterator[None]:
    yield
    site.client.down, site.client.delay_seconds = False, 0
    site.install(PageOptions(sign_in_url="/sign-in"))


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user that no other test uses."""
    return str(request.node.name)


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Open]:
    """Open the page with a session token, each time in a new browser."""
    contexts = []
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The browser logs every 4xx and 5xx. The tests check these statuses themselves.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def open_page(token: str | None = None, path: str = ROOT, **details: Any) -> Page:
        details = {"locale": "en-US", "timezone_id": "Europe/London", **details}
        context = browser.new_context(base_url=site.origin, **details)
        context.set_default_timeout(LIMIT_MILLISECONDS)
        contexts.append(context)
        if token is not None:
            context.add_cookies([{"name": COOKIE, "value": token, "url": site.origin}])
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if urlsplit(request.url).hostname not in ("127.0.0.1", "elsewhere.example")
                else None
            ),
        )
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == [], "the console is silent, and no other host is asked for anything"


@pytest.fixture
def mine(site: Site, user: str) -> NewSession:
    return site.sign_in(user, CHROME_ON_WINDOWS)


@pytest.fixture
def firefox(site: Site, user: str, mine: NewSession) -> NewSession:
    return site.sign_in(user, FIREFOX_ON_LINUX)


@pytest.fixture
def page(open_page: Open, mine: NewSession, firefox: NewSession) -> Page:
    return open_page(mine.token.reveal())
