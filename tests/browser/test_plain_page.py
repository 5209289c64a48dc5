"""Scenarios 22 and 23 without JavaScript, and by keyboard alone."""

import re

import pytest
from playwright.sync_api import Page, expect

from session_authority import NewSession
from tests.browser.conftest import Open
from tests.browser.devices import FIREFOX_ON_LINUX
from tests.browser.site import Site, ask_for, is_live

pytestmark = pytest.mark.untraced


class TestWithoutJavaScript:
    @pytest.fixture
    def page(self, open_page: Open, mine: NewSession, firefox: NewSession) -> Page:
        return open_page(mine.token.reveal(), java_script_enabled=False)

    def test_22_logging_out_asks_on_a_separate_page(
        self, site: Site, page: Page, firefox: NewSession
    ) -> None:
        ask_for(page, "Firefox on Linux")
        expect(page.get_by_role("heading", name="Log out Firefox on Linux?")).to_be_visible()
        page.get_by_role("link", name="Cancel").click()
        expect(page.get_by_role("heading", name="Firefox on Linux")).to_be_visible()
        assert is_live(site, firefox)

        ask_for(page, "Firefox on Linux")
        page.get_by_role("button", name="Log out").click()

        expect(page.get_by_role("status")).to_have_text("Firefox on Linux was logged out.")
        expect(page.get_by_role("button", name="Log out Firefox on Linux")).to_have_count(0)
        assert not is_live(site, firefox)
        assert firefox.session.session_id not in page.url

    def test_naming_a_session_asks_on_a_separate_page(self, page: Page) -> None:
        page.get_by_role("button", name="Rename Firefox on Linux").click()
        page.get_by_label("Name").fill("מחשב <b>")
        page.get_by_role("button", name="Save").click()

        expect(page.get_by_role("status")).to_have_text("The name was saved.")
        expect(page.get_by_role("heading", name="מחשב <b>")).to_be_visible()
        expect(page.get_by_text("Firefox on Linux")).to_be_visible()

    def test_a_group_opens(self, site: Site, page: Page, mine: NewSession) -> None:
        for _ in range(2):
            site.sign_in(mine.session.user_id, FIREFOX_ON_LINUX)
        page.reload()
        expect(page.get_by_role("button", name="Log out Firefox on Linux")).to_have_count(0)

        page.get_by_text("3 sessions").click()

        expect(page.get_by_role("button", name="Log out Firefox on Linux")).to_have_count(3)


class TestByKeyboardAlone:
    def tab_to(self, page: Page, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == name:
                return
        pytest.fail(f"no way leads to {name}")

    def test_a_device_is_logged_out_and_the_focus_is_never_lost(
        self, site: Site, page: Page, firefox: NewSession
    ) -> None:
        self.tab_to(page, "Log out Firefox on Linux")
        style = page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, parseFloat(s.outlineWidth)] })()"
        )
        assert style[0] == "solid"
        assert style[1] >= 2
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("button", name="Log out Firefox on Linux")).to_be_focused()

        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(dialog.get_by_role("button", name="Log out")).to_be_focused()
        page.keyboard.press("Enter")

        expect(page.get_by_text("You're not logged in anywhere else.")).to_be_focused()
        assert not is_live(site, firefox)

    def test_exact_times_appear_on_focus_and_disappear_on_escape(self, page: Page) -> None:
        time = page.get_by_text("just now").last
        tip = page.locator(f"#{time.get_attribute('aria-describedby')}")
        expect(tip).to_be_hidden()
        time.focus()
        expect(tip).to_be_visible()
        expect(time).to_have_accessible_description(re.compile(r"Jan 15, 2026, \d+:\d\d:\d\d"))
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
