"""Take screenshots of every state of the page: `python -m tools.screenshots FOLDER [WIDTH ...]`."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright
from tests.browser.chromium import launch
from tests.browser.devices import (
    CHROME_ON_WINDOWS,
    FIREFOX_ON_LINUX,
    IPAD,
    IPHONE,
    PIXEL,
    SAFARI_ON_MAC,
)
from tests.browser.site import COOKIE, ROOT, Site, running_site

from session_authority import NewSession
from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy

HEIGHT = 800
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")


PLACES = {
    "198.51.100.23": Location("Hamburg", "Hamburg", "Germany", "DE"),
    "2001:db8::8a2e:370:7334": Location("Hamburg", "Hamburg", "Germany", "DE"),
    "203.0.113.7": Location("Hamburg", "Hamburg", "Germany", "DE"),
    "192.0.2.44": Location("Lisbon", "Lisbon", "Portugal", "PT"),
}


def furnish(site: Site) -> NewSession:
    """Sign a user in on several devices over some days. Return the last session."""
    clock = site.authority.clock
    site.authority.places |= PLACES
    for _ in range(5):
        site.sign_in("ada", SAFARI_ON_MAC, ip_address="198.51.100.23")
        clock.advance(timedelta(days=2, hours=7))
    old = site.sign_in("ada", IPAD, ip_address="198.51.100.23")
    clock.advance(timedelta(days=3, hours=5))
    lost = site.sign_in(
        "ada", PIXEL, ip_address="192.0.2.44", authentication_methods=["pwd", "sms"]
    )
    clock.advance(timedelta(days=9, hours=4, minutes=12))
    site.sign_in(
        "ada",
        FIREFOX_ON_LINUX,
        ip_address="2001:db8::8a2e:370:7334",
        authentication_methods=["pwd", "otp"],
    )
    clock.advance(timedelta(days=1, hours=2, minutes=7))
    phone = site.sign_in(
        "ada", IPHONE, ip_address="198.51.100.23", authentication_methods=["passkey"]
    )
    site.run(site.authority.client.name(phone.token, phone.session.session_id, "My new phone"))
    clock.advance(timedelta(hours=3, minutes=1))
    site.run(site.authority.client.revoke(phone.token, lost.session.session_id))
    site.run(site.authority.client.sign_out(old.token))
    clock.advance(timedelta(hours=1))
    return site.sign_in("ada", CHROME_ON_WINDOWS, authentication_methods=["pwd", "otp"])


def main(folder: Path, widths: list[int]) -> None:
    """Take a screenshot of every state at every width, in light and dark."""
    with (
        tempfile.TemporaryDirectory() as data,
        running_site(Path(data), Policy()) as site,
        sync_playwright() as driver,
    ):
        browser = launch(driver)
        mine = furnish(site)
        site.install(PageOptions(sign_in_url="/sign-in", app_name="Acme", home_url="/"))
        site.authority.clock.advance(timedelta(hours=2))
        for width in widths:
            for scheme in SCHEMES:
                _draw(browser, site, mine, folder, width, scheme)
        browser.close()


def _draw(
    browser: Browser,
    site: Site,
    mine: NewSession,
    folder: Path,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme=scheme,
        device_scale_factor=1,
        base_url=site.origin,
        timezone_id="Europe/London",
        locale="en-GB",
    )
    page = context.new_page()

    def shoot(name: str, full: bool = True) -> None:
        page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=full)

    page.goto(ROOT)
    shoot("signed-out")
    context.add_cookies([{"name": COOKIE, "value": mine.token.reveal(), "url": site.origin}])
    page.goto(ROOT)
    shoot("sessions")
    page.locator("summary").click()
    shoot("group")
    page.get_by_role("button", name="Rename Firefox").click()
    page.get_by_label("Name").fill("x" * 65)
    page.get_by_role("button", name="Save").click()
    shoot("name")
    page.goto(ROOT)
    page.get_by_role("button", name="Log out Firefox").click()
    shoot("dialog", full=False)
    site.client.down = True
    page.get_by_role("dialog").get_by_role("button", name="Log out").click()
    page.get_by_role("alert").wait_for()
    page.locator(".when").nth(2).focus()
    shoot("failed")
    page.goto(ROOT)
    shoot("outage")
    site.client.down = False
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(width) for width in sys.argv[2:]] or [320, 1000])
