"""Scenarios 16 to 24: two browsers, repeated clicks, outages, other sites."""

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from session_authority import NewSession
from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.device import Device
from tests.browser.conftest import Open
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX, IPHONE, PIXEL
from tests.browser.site import ROOT, Site, ask_for, is_live
from tests.support.authority import a_session, insert_sessions

pytestmark = pytest.mark.untraced


def confirm(page: Page) -> None:
    page.get_by_role("dialog").get_by_role("button", name="Log out").click()


def posts(site: Site, path: str) -> list[int]:
    return [status for method, at, status in site.served if (method, at) == ("POST", ROOT + path)]


def test_22_log_out_asks_first_naming_the_device_and_cancelling_changes_nothing(
    site: Site, page: Page, firefox: NewSession
) -> None:
    before = posts(site, "/log-out")
    ask_for(page, "Firefox on Linux")
    dialog = page.get_by_role("dialog", name="Log out Firefox on Linux?")
    expect(dialog).to_be_visible()

    dialog.get_by_role("button", name="Cancel").click()

    expect(dialog).to_be_hidden()
    expect(page.get_by_role("heading", name="Firefox on Linux")).to_be_visible()
    assert posts(site, "/log-out") == before
    assert is_live(site, firefox)


def test_22_the_confirmation_distinguishes_devices_with_the_same_name(
    site: Site, open_page: Open, mine: NewSession, user: str
) -> None:
    site.sign_in(user, FIREFOX_ON_LINUX, ip_address="192.0.2.44")
    site.authority.clock.advance(timedelta(hours=2))
    site.sign_in(user, FIREFOX_ON_LINUX, ip_address="198.51.100.23")
    page = open_page(mine.token.reveal())

    page.get_by_role("button", name="Log out Firefox on Linux").last.click()

    dialog = page.get_by_role("dialog", name="Log out Firefox on Linux?")
    expect(dialog).to_contain_text("Last active 2 hours ago · 192.0.2.44")
    expect(dialog).to_have_accessible_description(re.compile("192.0.2.44 That device will have to"))
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Log out everywhere else").click()
    expect(page.get_by_role("dialog")).not_to_contain_text("192.0.2.44")


def test_22_after_confirmation_the_row_shows_progress_then_disappears(
    site: Site, page: Page, user: str, firefox: NewSession
) -> None:
    third = site.sign_in(user, IPHONE)
    page.reload()
    site.client.delay_seconds = 0.4
    ask_for(page, "Firefox on Linux")
    confirm(page)

    expect(page.get_by_role("button", name="Logging out…")).to_be_visible()
    expect(elsewhere(page, "Firefox on Linux")).to_have_count(0)
    expect(page.get_by_role("status")).to_have_text("Firefox on Linux was logged out.")
    expect(page.get_by_role("button", name="Log out Safari on iOS")).to_be_focused()
    assert not is_live(site, firefox)
    assert is_live(site, third)


def elsewhere(page: Page, name: str) -> Locator:
    """Find the rows of a device that is still signed in."""
    rows = page.get_by_role("region", name="Other devices").get_by_role("listitem")
    return rows.filter(has=page.get_by_role("heading", name=name))


def ended(page: Page) -> Locator:
    """Find the rows below "Recently logged out"."""
    return page.get_by_role("region", name="Recently logged out").get_by_role("listitem")


def test_a_group_stays_open_while_its_sessions_are_logged_out(
    site: Site, open_page: Open, user: str
) -> None:
    for _ in range(4):
        site.sign_in(user, FIREFOX_ON_LINUX)
    page = open_page(site.sign_in(user, CHROME_ON_WINDOWS).token.reveal())
    buttons = page.get_by_role("button", name="Log out Firefox on Linux")
    page.get_by_text("4 sessions").click()
    buttons.first.click()
    page.get_by_role("dialog").get_by_role("button", name="Log out").click()

    expect(page.get_by_text("3 sessions", exact=True)).to_be_visible()
    expect(buttons).to_have_count(3)
    expect(buttons.first).to_be_focused()


@pytest.mark.parametrize("scripts", [True, False], ids=["with a script", "without"])
def test_22_a_logged_out_device_is_listed_as_ended_immediately(
    site: Site,
    open_page: Open,
    mine: NewSession,
    firefox: NewSession,
    user: str,
    scripts: bool,
) -> None:
    site.sign_in(user, IPHONE)
    page, second = (
        open_page(mine.token.reveal(), java_script_enabled=scripts, timezone_id="Asia/Tokyo")
        for _ in range(2)
    )
    expect(ended(page)).to_have_count(0)
    for number, name in enumerate(("Firefox on Linux", "Safari on iOS"), start=1):
        site.authority.clock.advance(timedelta(seconds=1))  # the latest comes first
        ask_for(page, name)
        expect(page.get_by_role("heading", name=f"Log out {name}?")).to_be_visible()
        page.get_by_role("button", name="Log out", exact=True).last.click()

        expect(page.get_by_role("status")).to_have_text(f"{name} was logged out.")
        expect(ended(page)).to_have_count(number)
        expect(ended(page).first).to_contain_text(name)
        expect(ended(page).first).to_contain_text(
            "Logged out just now · By you, from another device", use_inner_text=True
        )
        expect(ended(page).first).to_contain_text("GMT+9" if scripts else "UTC")
        expect(page.get_by_text(f"{3 - number} active session")).to_be_visible()
    expect(page.get_by_text("You're not logged in anywhere else.")).to_be_visible()

    second.reload()
    expect(ended(second)).to_have_count(2)


@pytest.mark.parametrize("scripts", [True, False], ids=["with a script", "without"])
def test_22_removing_the_last_row_of_the_last_page_shows_the_previous_page(
    site: Site, open_page: Open, mine: NewSession, user: str, scripts: bool
) -> None:
    site.authority.clock.advance(timedelta(minutes=1))
    made = [a_session(user, site.authority.clock.now())[0] for _ in range(99)]
    old = a_session(user, site.authority.clock.now() - timedelta(days=2), device=Device("Old", "1"))
    site.run(insert_sessions(site.authority.database, [*made, old[0]]))
    page = open_page(mine.token.reveal(), path=f"{ROOT}?page=3", java_script_enabled=scripts)
    expect(page.get_by_text("101\N{EN DASH}101 of 101")).to_be_visible()

    ask_for(page, "Old")
    expect(page.get_by_role("heading", name="Log out Old?")).to_be_visible()
    page.get_by_role("button", name="Log out", exact=True).last.click()

    expect(page.get_by_text("51\N{EN DASH}100 of 100")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Old was logged out.")
    expect(ended(page)).to_have_count(1)
    if scripts:
        assert page.url.endswith(f"{ROOT}?page=2")


def test_22_a_failed_row_and_a_row_being_confirmed_stay_while_another_disappears(
    site: Site, page: Page, user: str, firefox: NewSession
) -> None:
    site.sign_in(user, IPHONE)
    site.sign_in(user, PIXEL)
    page.reload()
    page.route("**/log-out", lambda route: route.abort(), times=1)
    ask_for(page, "Firefox on Linux")
    confirm(page)
    expect(page.get_by_role("alert")).to_be_visible()

    site.client.delay_seconds = 0.4
    ask_for(page, "Safari on iOS")
    confirm(page)
    ask_for(page, "Chrome on Android")

    expect(page.get_by_role("heading", name="Safari on iOS", include_hidden=True)).to_have_count(1)
    expect(ended(page)).to_have_count(0)
    expect(page.get_by_role("dialog", name="Log out Chrome on Android?")).to_be_visible()
    expect(page.locator(".past .row")).to_have_count(1)
    confirm(page)
    expect(page.locator(".past .row")).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Try again: Log out Firefox on Linux")).to_be_visible()


def test_22_a_failure_keeps_the_row_says_why_and_can_be_tried_again(
    site: Site, page: Page, firefox: NewSession
) -> None:
    site.client.down = True  # while the page is open
    ask_for(page, "Firefox on Linux")
    confirm(page)
    expect(page.get_by_role("alert")).to_have_text(
        "The service isn't responding right now. Please try again in a few seconds."
    )
    expect(page.get_by_role("heading", name="Firefox on Linux")).to_be_visible()
    assert is_live(site, firefox)

    site.client.down = False
    page.get_by_role("button", name="Try again: Log out Firefox on Linux").click()
    confirm(page)

    expect(elsewhere(page, "Firefox on Linux")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_text("You're not logged in anywhere else.")).to_be_visible()
    assert not is_live(site, firefox)


def test_22_without_a_network_the_row_also_stays(page: Page) -> None:
    page.context.set_offline(True)
    ask_for(page, "Firefox on Linux")
    confirm(page)

    expect(page.get_by_role("alert")).to_contain_text("Please try again")
    expect(page.get_by_role("heading", name="Firefox on Linux")).to_be_visible()


def test_20_a_double_click_logs_out_once(site: Site, page: Page, firefox: NewSession) -> None:
    before = len(posts(site, "/log-out"))
    site.client.delay_seconds = 0.3
    page.get_by_role("button", name="Log out Firefox on Linux").dblclick()
    page.get_by_role("dialog").get_by_role("button", name="Log out").dblclick(force=True)

    expect(elsewhere(page, "Firefox on Linux")).to_have_count(0)
    assert len(posts(site, "/log-out")) - before == 1


def test_23_a_second_click_while_signing_out_does_nothing(
    site: Site, page: Page, mine: NewSession
) -> None:
    before = len(posts(site, "/sign-out"))
    site.client.delay_seconds = 1
    button = page.get_by_role("button", name="Log out of this device")
    button.evaluate("button => { button.click(); setTimeout(() => button.click(), 150) }")

    expect(page.get_by_role("heading", name="You're logged out")).to_be_visible()
    assert len(posts(site, "/sign-out")) - before == 1
    assert not is_live(site, mine)


def test_16_the_next_click_of_a_browser_that_was_logged_out_is_refused(
    site: Site, page: Page, open_page: Open, firefox: NewSession
) -> None:
    there = open_page(firefox.token.reveal(), user_agent=FIREFOX_ON_LINUX)
    expect(there.get_by_role("heading", name="Chrome on Windows")).to_be_visible()

    ask_for(page, "Firefox on Linux")
    confirm(page)
    expect(page.get_by_role("status")).to_have_text("Firefox on Linux was logged out.")

    ask_for(there, "Chrome on Windows")
    confirm(there)
    expect(there.get_by_role("heading", name="You're logged out")).to_be_visible()
    expect(there.get_by_text("This device was logged out remotely.")).to_be_visible()
    expect(there.get_by_role("listitem")).to_have_count(0)
    there.goto("/me")
    assert there.url.endswith("/sign-in?next=%2Fme")
    assert there.context.cookies() == []
    assert page.goto("/me").status == 200  # type: ignore[union-attr]


def test_21_two_tabs_that_log_out_the_same_device_both_remove_its_row(
    page: Page, open_page: Open, mine: NewSession
) -> None:
    second = open_page(mine.token.reveal())
    for tab in (page, second):
        ask_for(tab, "Firefox on Linux")
    confirm(page)
    expect(page.get_by_role("status")).to_have_text("Firefox on Linux was logged out.")
    confirm(second)

    expect(second.get_by_role("status")).to_have_text("Firefox on Linux was already logged out.")
    expect(elsewhere(second, "Firefox on Linux")).to_have_count(0)


def test_24_logging_out_everywhere_else_keeps_this_session(
    site: Site, page: Page, mine: NewSession, firefox: NewSession
) -> None:
    page.get_by_role("button", name="Log out everywhere else").click()
    expect(page.get_by_role("dialog", name="Log out everywhere else?")).to_be_visible()
    confirm(page)

    expect(page.get_by_role("status")).to_have_text("You're logged out everywhere else.")
    expect(page.get_by_text("You're not logged in anywhere else.")).to_be_visible()
    expect(page.get_by_role("button", name="Log out everywhere else")).to_have_count(0)
    assert (is_live(site, mine), is_live(site, firefox)) == (True, False)
    page.reload()
    expect(page.get_by_role("heading", name="Recently logged out")).to_be_visible()


def test_23_after_signing_out_the_back_button_shows_no_list(site: Site, page: Page) -> None:
    page.get_by_role("button", name="Log out of this device").click()
    expect(page.get_by_role("heading", name="You're logged out")).to_be_visible()
    page.get_by_role("link", name="Log in").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    for _ in range(3):
        page.go_back(wait_until="load")
        expect(page.get_by_text("Firefox on Linux")).to_have_count(0)
        if page.url == "about:blank":
            break
        expect(page.get_by_role("heading", name="You're logged out")).to_be_visible()


def test_signing_in_returns_to_the_page(site: Site, open_page: Open, user: str) -> None:
    page = open_page()
    link = page.get_by_role("link", name="Log in")
    expect(link).to_have_attribute("href", "/sign-in?next=%2Faccount%2Fsessions")

    assert page.request.post(f"/sign-in/{user}").ok
    page.goto(ROOT)

    expect(page.get_by_text("Current session")).to_be_visible()
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")


def test_the_delay_of_cached_validations_is_shown_before_and_after(
    site: Site, page: Page, firefox: NewSession
) -> None:
    site.install(PageOptions(effective_within_seconds=2))
    page.reload()
    ask_for(page, "Firefox on Linux")
    expect(page.get_by_role("dialog")).to_contain_text("within 2 seconds")
    confirm(page)

    expect(page.get_by_role("status")).to_contain_text("within 2 seconds")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8099", "http://elsewhere.example"])
@pytest.mark.parametrize("path", ["/log-out-elsewhere", "/sign-out"])
def test_22_another_site_cannot_act_for_the_user(
    site: Site, page: Page, mine: NewSession, firefox: NewSession, origin: str, path: str
) -> None:
    """One of the origins is same-site, so the browser sends the cookie."""
    proof = page.locator("input[name=proof]").first.get_attribute("value")
    trap = f"""<!doctype html><html lang=en><title>Trap</title>
        <form method=post action="{site.origin}{ROOT}{path}"><input name=proof value="{proof}">
        <input name=confirmed value=yes><button>You have won</button></form>"""
    page.context.route(
        re.compile(re.escape(origin) + "/trap"),
        lambda route: route.fulfill(body=trap, content_type="text/html"),
    )
    page.goto(origin + "/trap")
    before = len(posts(site, path))
    page.get_by_role("button", name="You have won").click()
    page.wait_for_url(site.origin + ROOT + path)

    assert posts(site, path)[before:] == [403]
    assert is_live(site, mine)
    assert is_live(site, firefox)
    assert page.goto("/me").status == 200  # type: ignore[union-attr]
