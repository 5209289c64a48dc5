"""The sessions page in the Django example: the site's own login, and two browsers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import LIMIT_MILLISECONDS
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.integration.web.example_shops import PASSWORDS, make_django_users
from tests.integration.web.serving_apps import EXAMPLES, RUNSERVER, serving_app
from tests.support.program import serving

pytestmark = pytest.mark.untraced

SignIn = Callable[..., Page]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("shop")
    with serving(folder) as authority:
        settings = {"SESSION_AUTHORITY_ADDRESS": authority.address}
        make_django_users(folder, **settings)
        command = (str(EXAMPLES / "django_app.py"), "runserver", "127.0.0.1:0", "--noreload")
        with serving_app(*command, cwd=folder, **settings) as app:
            yield app.addresses(RUNSERVER)[0].replace("127.0.0.1", "localhost")


@pytest.fixture
def sign_in(browser: Browser, shop: str) -> Iterator[SignIn]:
    """Sign in through the site's own form, each time in a new browser."""
    contexts = []

    def sign_in(user_agent: str, **details: Any) -> Page:
        context = browser.new_context(
            base_url=shop, locale="en-US", user_agent=user_agent, **details
        )
        context.set_default_timeout(LIMIT_MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill(PASSWORDS["ada"])
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Hello, ada")).to_be_visible()
        page.get_by_role("link", name="Your sessions").click()
        expect(page.get_by_role("heading", name="Your sessions")).to_be_visible()
        return page

    yield sign_in
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scripts", [True, False], ids=["with a script", "without"])
def test_16_a_browser_that_was_logged_out_loses_its_django_login(
    sign_in: SignIn, scripts: bool
) -> None:
    there = sign_in(FIREFOX_ON_LINUX)
    here = sign_in(CHROME_ON_WINDOWS, java_script_enabled=scripts)

    here.get_by_role("button", name="Log out Firefox on Linux").click()
    expect(here.get_by_role("heading", name="Log out Firefox on Linux?")).to_be_visible()
    here.get_by_role("button", name="Log out", exact=True).last.click()
    expect(here.get_by_role("status")).to_have_text("Firefox on Linux was logged out.")

    there.goto("/")
    expect(there.get_by_role("button", name="Log in")).to_be_visible()
    assert {cookie["name"] for cookie in there.context.cookies()} == {"csrftoken"}
    here.goto("/")
    expect(here.get_by_role("heading", name="Hello")).to_be_visible()


def test_23_signing_out_on_the_page_also_logs_out_of_django(sign_in: SignIn) -> None:
    page = sign_in(CHROME_ON_WINDOWS)

    page.get_by_role("button", name="Log out of this device").click()

    expect(page.get_by_role("heading", name="You're logged out")).to_be_visible()
    assert {cookie["name"] for cookie in page.context.cookies()} == {"csrftoken"}
    page.goto("/")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="You're logged out")).to_be_visible()
    expect(page.get_by_role("link", name="Log in")).to_have_attribute(
        "href", "/sign-in?next=%2Faccount%2Fsessions"
    )
