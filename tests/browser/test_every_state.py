"""Accessibility of every state of the page, in both colour schemes."""

import re
from datetime import timedelta
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.policy import Policy
from tests.browser.conftest import Open
from tests.browser.devices import FIREFOX_ON_LINUX
from tests.browser.site import ROOT, Site
from tests.browser.usual_site import USUAL_POLICY, usual

pytestmark = pytest.mark.untraced

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CHECKED: dict[Literal["light", "dark"], dict[str, object]] = {
    "light": {"type": "tag", "values": WCAG},
    "dark": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return USUAL_POLICY


class TestEveryState:
    """Check each state against WCAG 2.2 AA on the narrowest phone, in light and dark."""

    def check(self, page: Page, name: str) -> None:
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow == 0, f"{name} scrolls sideways"
        for scheme, checked in CHECKED.items():
            page.emulate_media(color_scheme=scheme)
            # Wait for animations. The colours of a fading row are not its final ones.
            page.evaluate("Promise.all(document.getAnimations().map(each => each.finished))")
            found = Axe().run(page, options={"runOnly": checked})
            assert found.violations_count == 0, f"{name}, {scheme}: {found.generate_report()}"

    def test_the_list_the_confirmation_and_the_failure_are_accessible(
        self, site: Site, open_page: Open, user: str
    ) -> None:
        mine = usual(site, user)
        page = open_page(mine.token.reveal(), viewport={"width": 320, "height": 640})
        self.check(page, "list")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        page.get_by_role("time").first.focus()
        self.check(page, "exact time")
        page.get_by_role("button", name="Log out everywhere else").focus()
        page.keyboard.press("Tab")
        self.check(page, "exact times by keyboard")
        page.get_by_role("button", name="Log out Firefox on Linux").click()
        self.check(page, "question")
        site.client.down = True
        page.get_by_role("dialog").get_by_role("button", name="Log out").click()
        expect(page.get_by_role("alert")).to_be_visible()
        self.check(page, "failure")
        page.reload()
        self.check(page, "outage")
        site.client.down = False
        page.goto(ROOT)
        page.get_by_role("button", name="Log out everywhere else").click()
        page.get_by_role("dialog").get_by_role("button", name="Log out").click()
        expect(page.get_by_text("You're not logged in anywhere else.")).to_be_visible()
        self.check(page, "alone, with a notice")

    def test_groups_and_the_form_for_a_name_are_accessible(
        self, site: Site, open_page: Open, user: str
    ) -> None:
        for _ in range(3):
            site.sign_in(user, FIREFOX_ON_LINUX)
        mine = usual(site, user)
        page = open_page(mine.token.reveal(), viewport={"width": 320, "height": 640})
        self.check(page, "group")
        page.locator("summary").click()
        self.check(page, "open group")
        page.get_by_role("button", name="Rename Firefox on Linux").first.click()
        expect(page.get_by_role("heading", name="Name this session")).to_be_visible()
        self.check(page, "form for a name")
        page.get_by_label("Name").fill("x" * 65)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_label("Name")).to_have_accessible_description(
            re.compile("65 characters")
        )
        self.check(page, "refused name")

    def test_the_confirmations_without_javascript_are_accessible(
        self, site: Site, open_page: Open, user: str
    ) -> None:
        # The checker needs JavaScript. Forms that are submitted directly bypass the page's script.
        page = open_page(usual(site, user).token.reveal(), viewport={"width": 320, "height": 640})
        page.evaluate("document.querySelectorAll('form[action$=log-out]')[0].submit()")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"Log out .*\?"))
        self.check(page, "question about one")
        site.client.down = True
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="That didn't work")).to_be_visible()
        self.check(page, "failure")
        site.client.down = False
        page.goto(ROOT)
        page.evaluate("document.querySelectorAll('form[action$=log-out-elsewhere]')[0].submit()")
        expect(page.get_by_role("heading", name="Log out everywhere else?")).to_be_visible()
        self.check(page, "question about all")

    def test_the_messages_shown_instead_of_the_list_are_accessible(
        self, site: Site, open_page: Open, user: str
    ) -> None:
        size = {"viewport": {"width": 320, "height": 640}}
        self.check(open_page(**size), "signed out")
        self.check(open_page(path=ROOT + "/nowhere", **size), "not found")
        support = site.sign_in(user, actor_id="support-7")
        self.check(open_page(support.token.reveal(), **size), "impersonating")
        mine = site.sign_in(user)
        site.authority.clock.advance(timedelta(days=21))
        page = open_page(mine.token.reveal(), **size)
        expect(page.get_by_role("heading", name="Confirm it's you")).to_be_visible()
        expect(page.get_by_role("link", name="Continue")).to_have_attribute(
            "href", "/sign-in?next=%2Faccount%2Fsessions"
        )
        self.check(page, "stale")

    def test_the_right_to_left_page_is_accessible(
        self, site: Site, open_page: Open, user: str, tmp_path: Any
    ) -> None:
        (tmp_path / "ar.po").write_text('msgid "Your sessions"\nmsgstr "جلساتك"\n')
        site.install(PageOptions(catalogues=tmp_path))
        page = open_page(
            usual(site, user).token.reveal(), locale="ar", viewport={"width": 320, "height": 640}
        )
        self.check(page, "right to left")
        page.set_viewport_size({"width": 1000, "height": 640})
        row = page.get_by_role("listitem").nth(1)
        button, icon = (
            row.get_by_role("button").last.bounding_box(),
            row.locator("svg").first.bounding_box(),
        )
        assert button is not None
        assert icon is not None
        assert button["x"] < icon["x"], "the page is mirrored"
