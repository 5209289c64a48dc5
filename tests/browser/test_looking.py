"""Scenarios 15 and 31 to 33, and the page's appearance on phones and in the dark scheme."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from session_authority.web.sessions_page import PageOptions
from session_authority_server.domain.device import Device
from session_authority_server.domain.policy import Policy
from tests.browser.conftest import Open
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX
from tests.browser.site import ROOT, Site
from tests.browser.usual_site import USUAL_POLICY, usual
from tests.support.authority import a_session, insert_sessions

pytestmark = pytest.mark.untraced

BUDGET_BYTES = 30 * 1024
LOCALES = ("en-US", "de-DE", "es-ES", "fr-FR", "ja-JP")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return USUAL_POLICY


def test_15_the_exact_time_is_in_the_viewers_time_zone_across_a_daylight_saving_change(
    site: Site, open_page: Open, user: str
) -> None:
    """In New York the clocks went from 01:59:59 EST to 03:00:00 EDT at 07:00 UTC."""
    change = datetime(2026, 3, 8, 7, tzinfo=UTC)
    site.authority.clock.advance(change - timedelta(minutes=1) - site.authority.clock.now())
    site.sign_in(user, FIREFOX_ON_LINUX)
    site.authority.clock.advance(timedelta(minutes=2))
    mine = site.sign_in(user, CHROME_ON_WINDOWS)
    site.authority.clock.advance(timedelta(minutes=119))

    page = open_page(mine.token.reveal(), timezone_id="America/New_York")

    before = page.get_by_role("listitem").filter(has_text="Firefox on Linux")
    after = page.get_by_role("listitem").filter(has_text="Chrome on Windows")
    expect(before).to_contain_text("Last active 2 hours ago")
    expect(before.get_by_role("time").last).to_have_text(re.compile("Mar 8, 2026, 1:59.AM"))
    expect(after.get_by_role("time").last).to_have_text(re.compile("Mar 8, 2026, 3:01.AM"))
    before.get_by_text("2 hours ago").hover()
    expect(before.get_by_role("tooltip")).to_have_text(re.compile("Mar 8, 2026, 1:59:00.AM EST"))
    expect(after.locator("[role=tooltip]").last).to_have_text(
        re.compile("Mar 8, 2026, 3:01:00.AM EDT")
    )
    tokyo = open_page(mine.token.reveal(), timezone_id="Asia/Tokyo", locale="ja-JP")
    expect(tokyo.get_by_text("2026/03/08 16:01", exact=True)).to_be_visible()


def test_15_without_javascript_times_are_in_utc_and_say_so(
    site: Site, open_page: Open, user: str
) -> None:
    mine = site.sign_in(user, CHROME_ON_WINDOWS)
    page = open_page(mine.token.reveal(), timezone_id="America/New_York", java_script_enabled=False)

    page.get_by_role("time").filter(has_text="UTC").hover()

    expect(page.get_by_role("tooltip")).to_have_text(re.compile(r"\d:\d\d:\d\d.[AP]M UTC"))


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Say whether two rectangles have an area in common."""
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "width"), ("y", "height"))
    )


def test_15_the_exact_time_neither_covers_nor_moves_a_button(
    site: Site, open_page: Open, user: str
) -> None:
    token = usual(site, user).token.reveal()
    page = open_page(token, timezone_id="America/Argentina/Buenos_Aires")
    for width in (320, 550, 1000):
        page.set_viewport_size({"width": width, "height": 2500})
        check_exact_times(page)


def check_exact_times(page: Page) -> None:
    """Check that no exact time of the usual sessions covers or moves a button."""
    boxes = """selector => [...document.querySelectorAll(selector)].map(each => {
        const { x, y, width, height } = each.getBoundingClientRect();
        return { x, y, width, height };
    }).filter(each => each.width)"""
    before = page.evaluate(boxes, "main button")
    times, buttons = page.get_by_role("time").all(), page.locator(".row form button").all()
    assert (len(times), len(buttons)) == (12, 5)
    page.keyboard.press("Tab")  # the browser now treats focus as keyboard focus

    for show in [show for time in times for show in (time.hover, time.focus)] + [
        button.focus for button in buttons
    ]:
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        show()
        tips, now = page.evaluate(boxes, ".tip"), page.evaluate(boxes, "main button")
        assert tips
        assert now == before
        assert [(tip, button) for tip in tips for button in now if overlap(tip, button)] == []


def test_15_a_row_has_two_tab_stops_and_its_times_are_text(
    site: Site, open_page: Open, user: str
) -> None:
    page = open_page(usual(site, user).token.reveal())

    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "[...document.querySelectorAll('.row')].findIndex(r => r.contains(document.activeElement))"
            )
        )

    assert [stops.count(row) for row in range(6)] == [2, 2, 2, 2, 2, 0]
    assert page.locator(".row :is(a, button) time").count() == 0


def test_15_the_row_with_keyboard_focus_shows_its_exact_times(
    site: Site, open_page: Open, user: str
) -> None:
    site.sign_in(user, FIREFOX_ON_LINUX)
    page = open_page(site.sign_in(user, CHROME_ON_WINDOWS).token.reveal())
    row = page.get_by_role("listitem").filter(has_text="Firefox on Linux")
    expect(page.get_by_role("tooltip")).to_have_count(0)

    page.get_by_role("button", name="Log out everywhere else").focus()
    page.keyboard.press("Tab")

    expect(row.get_by_role("button", name="Rename")).to_be_focused()
    expect(row.get_by_role("tooltip")).to_have_text([re.compile(r":\d\d:\d\d")] * 2)
    expect(page.get_by_role("tooltip")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_have_count(0)


def test_32_on_a_phone_the_log_out_button_is_beside_the_name(
    site: Site, open_page: Open, user: str
) -> None:
    token = usual(site, user).token.reveal()
    page = open_page(token, viewport={"width": 320, "height": 800}, locale=None)
    for locale in LOCALES:
        reload_in(page, locale)
        check_buttons(page)


def reload_in(page: Page, locale: str) -> None:
    """Reload the page in another language. Its context must have no locale."""
    page.set_extra_http_headers({"Accept-Language": locale})
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", locale)


def check_buttons(page: Page) -> None:
    """Check that each button to log out is beside the name of its device."""
    for row in page.locator(".row:has(form)").all():
        name = row.get_by_role("heading").bounding_box()
        button = row.locator("form button").bounding_box()
        about = row.locator(".about").bounding_box()
        assert name is not None
        assert button is not None
        assert about is not None
        assert abs(name["y"] - button["y"]) < 8
        assert name["x"] + name["width"] <= button["x"]
        assert button["y"] + button["height"] <= about["y"] + 4


def test_31_the_signed_out_card_is_centered(open_page: Open) -> None:
    page = open_page()
    for width in (320, 1000):
        page.set_viewport_size({"width": width, "height": 800})
        middles = []
        for part in (".card", ".card .icon", ".card h1", ".card p", ".card .button"):
            box = page.locator(part).bounding_box()
            assert box is not None
            middles.append(box["x"] + box["width"] / 2)

        assert max(middles) - min(middles) <= 1
        assert abs(middles[0] - width / 2) <= 1


def test_the_icon_of_the_page_exists(site: Site, open_page: Open) -> None:
    page = open_page()
    for path in (ROOT + "/nowhere", ROOT):
        page.goto(path)
        icon = page.request.get(str(page.locator("link[rel=icon]").get_attribute("href")))
        assert (icon.status, icon.headers["content-type"]) == (200, "image/svg+xml")

    site.install(PageOptions(icon_path="/favicon.ico"))
    page.reload()
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", "/favicon.ico")


def test_15_relative_times_update_while_the_page_is_open(
    site: Site, open_page: Open, user: str, browser: Any
) -> None:
    mine = site.sign_in(user, CHROME_ON_WINDOWS)
    site.authority.clock.advance(timedelta(minutes=5))
    page = open_page(mine.token.reveal(), path="/sign-in")
    page.clock.install(time=datetime(2030, 1, 1, tzinfo=UTC))  # the browser's own is wrong
    page.goto(ROOT)
    expect(page.get_by_text("5 minutes ago")).to_be_visible()

    page.clock.run_for(3 * 60 * 1000)

    expect(page.get_by_text("8 minutes ago")).to_be_visible()


def test_15_the_script_and_the_server_format_relative_times_alike(
    site: Site, open_page: Open, user: str
) -> None:
    mine = site.sign_in(user, CHROME_ON_WINDOWS)
    now = site.authority.clock.now()
    seconds = [30, 90, 3590, 3690, 86_000, 604_000, 605_000]
    days = [13, 14, 29, 30, 59, 60, 364, 365, 729]
    spans = [timedelta(seconds=each) for each in seconds] + [timedelta(days=each) for each in days]
    # Each of another device, so that the page doesn't group them.
    made = [
        a_session(user, now - span, lifetime=timedelta(days=999), device=Device(str(number)))[0]
        for number, span in enumerate(spans)
    ]
    site.run(insert_sessions(site.authority.database, made))

    scripted = open_page(mine.token.reveal(), locale=None)
    plain = open_page(mine.token.reveal(), locale=None, java_script_enabled=False)

    for locale in LOCALES:
        reload_in(scripted, locale)
        reload_in(plain, locale)
        texts = plain.locator("time[data-kind=ago]").all_inner_texts()
        assert len(texts) == len(spans) + 1
        assert scripted.locator("time[data-kind=ago]").all_inner_texts() == texts


@pytest.mark.parametrize(
    ("locale", "title", "device", "ask", "yes"),
    [
        (
            "de-DE",
            "Ihre Sitzungen",
            "Firefox unter Linux",
            "Firefox unter Linux abmelden?",
            "Abmelden",
        ),
        (
            "fr-FR",
            "Vos sessions",
            "Firefox sur Linux",
            "Déconnecter « Firefox sur Linux » ?",
            "Déconnecter",
        ),
        (
            "es-MX",
            "Tus sesiones",
            "Firefox en Linux",
            "¿Cerrar la sesión de «Firefox en Linux»?",
            "Cerrar sesión",
        ),
        (
            "ja-JP",
            "セッション一覧",
            "Linux の Firefox",
            "「Linux の Firefox」からログアウトしますか\N{FULLWIDTH QUESTION MARK}",
            "ログアウト",
        ),
    ],
    ids=["de", "fr", "es", "ja"],
)
def test_33_all_text_is_in_the_visitors_language(
    site: Site, open_page: Open, user: str, locale: str, title: str, device: str, ask: str, yes: str
) -> None:
    site.sign_in(user, FIREFOX_ON_LINUX)
    page = open_page(site.sign_in(user, CHROME_ON_WINDOWS).token.reveal(), locale=locale)

    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.locator("html")).to_have_attribute("lang", locale)
    row = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=device))
    row.get_by_role("button").last.click()
    dialog = page.get_by_role("dialog", name=ask)
    dialog.get_by_role("button", name=yes, exact=True).click()

    expect(page.locator("#elsewhere")).to_have_count(0)
    expect(page.locator(".past").get_by_role("heading", name=device)).to_be_visible()
    assert not re.search(
        r"\b(log|logged|ago|your|you|device|active|with)\b", page.locator("main").inner_text()
    ), "no English is left"


def test_the_page_and_its_assets_are_small(site: Site, open_page: Open, user: str) -> None:
    mine = usual(site, user)
    page = open_page(path="/sign-in")
    page.context.add_cookies(
        [{"name": "auth_session", "value": mine.token.reveal(), "url": site.origin}]
    )
    sizes: dict[str, int] = {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.goto(ROOT, wait_until="networkidle")

    kinds = {url.rpartition(".")[2] for url in sizes if "static" in url}
    assert kinds <= {"css", "js", "svg"}
    assert sum(sizes.values()) < BUDGET_BYTES, sizes


def test_reduced_motion_disables_transitions(site: Site, open_page: Open, user: str) -> None:
    mine = usual(site, user)
    page = open_page(mine.token.reveal())
    duration = "getComputedStyle(document.querySelector('.row')).transitionDuration"

    assert page.evaluate(duration) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(duration) == "0s"


def test_an_app_styles_the_page_with_css_variables(site: Site, open_page: Open, user: str) -> None:
    site.install(PageOptions(stylesheet_path="/theme.css"))
    page = open_page(path="/sign-in")
    page.route(
        "**/theme.css",
        lambda route: route.fulfill(
            body=":root { --sa-background: rgb(1 2 3); }", content_type="text/css"
        ),
    )
    page.goto(ROOT)

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(1, 2, 3)"
