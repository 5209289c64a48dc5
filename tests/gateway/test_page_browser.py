"""The sessions page of the gateway in a real browser, behind nginx with TLS."""

from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.chromium import EXECUTABLE, launch
from tests.browser.devices import FIREFOX_ON_LINUX
from tests.gateway.page_site import COOKIE, ROOT, running_site
from tests.support import proxies

MILLISECONDS = 60_000


def test_a_user_logs_out_a_device_and_then_signs_out(tmp_path: Path) -> None:
    if EXECUTABLE is None or proxies.program("nginx") is None:
        pytest.skip("needs Chromium and nginx")
    with running_site("nginx", "page.conf", tmp_path) as site, sync_playwright() as driver:
        phone, mine = site.sign_in("ada", FIREFOX_ON_LINUX), site.sign_in("ada")
        browser = launch(driver)
        context = browser.new_context(
            base_url=site.origin, ignore_https_errors=True, locale="en-US"
        )
        context.set_default_timeout(MILLISECONDS)
        context.add_cookies(
            [
                {
                    "name": COOKIE,
                    "value": mine,
                    "url": site.origin,
                    "secure": True,
                    "httpOnly": True,
                    "sameSite": "Lax",
                }
            ]
        )
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(ROOT)

        page.get_by_role("button", name="Log out Firefox on Linux").click()
        page.get_by_role("dialog").get_by_role("button", name="Log out").click()
        notice = page.get_by_text("Firefox on Linux was logged out").first
        expect(notice).to_be_visible(timeout=MILLISECONDS)
        assert complaints == []
        assert not site.is_live(phone)
        assert site.is_live(mine)

        page.get_by_role("button", name="Log out of this device").click()
        title = page.get_by_role("heading", name="You're logged out")
        expect(title).to_be_visible(timeout=MILLISECONDS)
        assert context.cookies() == []
        assert not site.is_live(mine)
        browser.close()
