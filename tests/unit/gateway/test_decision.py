"""The decision about a request: which sessions pass on which routes, and what others get."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from session_authority import Device, Rejection, RejectionReason, Session, SessionState
from session_authority.web.cookies import SessionCookie
from session_authority.web.site import Arrival
from session_authority_gateway.decision import (
    UNAVAILABLE,
    Allowed,
    Inbound,
    Pages,
    Refused,
    bad_option,
    decide,
    forged,
)
from session_authority_gateway.options import Options

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
SESSION = Session(
    session_id="0198-id",
    user_id="mary",
    state=SessionState.ACTIVE,
    current=True,
    device=Device(),
    create_time=NOON,
    authenticate_time=NOON,
    authentication_methods=("pwd", "otp"),
    last_active_time=NOON,
    expire_time=NOON + timedelta(days=90),
)
NONE = Rejection(RejectionReason.NOT_FOUND)
PAGES = Pages(sign_in="/sign-in", reauthenticate="/confirm")
PAGE = {"accept": "text/html"}
FETCHED = {**PAGE, "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
REQUIRED, OPTIONAL = Options(), Options(required=False)
RECENT, BY_KEY = Options(max_age=timedelta(minutes=15)), Options(methods=frozenset(("hwk", "mfa")))


def inbound(method: str = "GET", uri: str = "/a?b=c", **headers: str) -> Inbound:
    given: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
    header = {"host": "shop.example", **given}
    arrival = Arrival("https", header["host"], "127.0.0.1", lambda name: header.get(name, ""))
    return Inbound(method, uri, arrival)


def page(uri: str = "/a?b=c", method: str = "GET") -> Inbound:
    return inbound(method, uri, accept="text/html")


def refused(
    outcome: Session | Rejection,
    options: Options,
    request: Inbound,
    pages: Pages = PAGES,
    now: datetime = NOON,
) -> Refused:
    answer = decide(outcome, options, request, pages, now)
    assert isinstance(answer, Refused)
    return answer


@pytest.mark.parametrize("options", [REQUIRED, OPTIONAL, RECENT])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_live_session_passes_with_its_identity(options: Options, method: str) -> None:
    answer = decide(SESSION, options, inbound(method), PAGES, NOON)
    assert answer == Allowed(
        (
            ("x-session-user-id", "mary"),
            ("x-session-id", "0198-id"),
            ("x-session-authenticate-time", "2026-01-15T12:00:00Z"),
            ("x-session-authentication-methods", "pwd,otp"),
        )
    )


def test_an_optional_route_passes_without_identity_and_clears_the_cookie() -> None:
    cookies = SessionCookie().cleared(local=False)
    assert decide(NONE, OPTIONAL, page(), PAGES, NOON, cookies) == Allowed((), cookies)


@pytest.mark.parametrize(
    ("request_", "pages", "location"),
    [
        (page(), PAGES, "/sign-in?next=%2Fa%3Fb%3Dc"),
        (page(method="HEAD"), PAGES, "/sign-in?next=%2Fa%3Fb%3Dc"),
        (page("/"), Pages("https://id.example/in?app=1"), "https://id.example/in?app=1&next=%2F"),
        (page("//evil.example"), PAGES, "/sign-in"),
        (page("https://evil.example/"), PAGES, "/sign-in"),
        (page("/\\evil.example"), PAGES, "/sign-in"),
        (page(""), PAGES, "/sign-in"),
        (page(), Pages(), ""),
        (page("/sign-in?next=%2F"), PAGES, ""),
        (page("/./sign-in"), PAGES, ""),
        (page("/in"), Pages("https://shop.example/in"), ""),
        (page("/in"), Pages("https://id.example/in"), "https://id.example/in"),
        (page(method="POST"), PAGES, ""),
        (inbound(), PAGES, ""),
        (inbound(accept="application/json"), PAGES, ""),
        (
            inbound(accept="text/html", sec_fetch_mode="navigate"),
            PAGES,
            "/sign-in?next=%2Fa%3Fb%3Dc",
        ),
        (inbound(accept="text/html", sec_fetch_mode="cors"), PAGES, ""),
        (inbound(accept="text/html", sec_fetch_dest="empty"), PAGES, ""),
        (inbound(accept="text/html", sec_purpose="prefetch"), PAGES, ""),
        (inbound(accept="text/html", x_requested_with="XMLHttpRequest"), PAGES, ""),
        (inbound(accept="text/html", upgrade="websocket"), PAGES, ""),
    ],
)
def test_only_a_navigation_is_redirected_and_only_to_the_sign_in_page(
    request_: Inbound, pages: Pages, location: str
) -> None:
    answer = refused(NONE, REQUIRED, request_, pages)
    assert (answer.location, answer.status) == (location, 303 if location else 401)
    assert answer.error == "session_required"


def test_a_refusal_is_json_that_no_cache_keeps() -> None:
    cookies = SessionCookie().cleared(local=True)
    answer = decide(NONE, REQUIRED, inbound(), PAGES, NOON, cookies)
    assert isinstance(answer, Refused)
    assert answer.body() == b'{"error": "session_required", "message": "Not logged in"}'
    assert answer.headers() == (
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("vary", "Cookie, Authorization, X-Session-Token"),
        ("www-authenticate", "Bearer"),
        ("set-cookie", cookies[0].header()),
        ("set-cookie", cookies[1].header()),
    )


def test_an_outage_says_when_to_try_again_and_clears_nothing() -> None:
    headers = dict(UNAVAILABLE.headers())
    assert (UNAVAILABLE.status, headers["retry-after"]) == (503, "5")
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    ("minutes", "passes"), [(0, True), (15, True), (15.1, False), (900, False)]
)
def test_a_proof_of_identity_must_be_recent_enough(minutes: float, passes: bool) -> None:
    now = NOON + timedelta(minutes=minutes)
    assert isinstance(decide(SESSION, RECENT, inbound(), PAGES, now), Allowed) is passes


def test_an_old_proof_sends_a_browser_to_the_confirming_page_and_challenges_a_program() -> None:
    now = NOON + timedelta(hours=1)
    browser = refused(SESSION, RECENT, page(), now=now)
    assert (browser.status, browser.location) == (303, "/confirm?next=%2Fa%3Fb%3Dc")
    without = refused(SESSION, RECENT, page(), Pages("/sign-in"), now)
    assert without.location == "/sign-in?next=%2Fa%3Fb%3Dc"
    program = refused(SESSION, RECENT, inbound("POST"), now=now)
    assert (program.status, program.error) == (401, "reauthentication_required")
    assert program.challenge == 'Bearer error="insufficient_user_authentication", max_age="900"'


@pytest.mark.parametrize(
    ("used", "passes"),
    [
        (("pwd", "mfa"), True),
        (("hwk",), True),
        (("hwk", "mfa"), True),
        (("pwd",), False),
        ((), False),
    ],
)
def test_one_of_the_methods_is_enough(used: tuple[str, ...], passes: bool) -> None:
    session = replace(SESSION, authentication_methods=used)
    answer = decide(session, BY_KEY, page(), PAGES, NOON)
    assert isinstance(answer, Allowed) is passes
    if isinstance(answer, Refused):
        assert (answer.status, answer.error, answer.location) == (403, "method_required", "")
        assert answer.message.endswith("first: hwk, mfa")


@pytest.mark.parametrize("options", [RECENT, BY_KEY])
def test_without_a_session_every_required_route_asks_for_one(options: Options) -> None:
    assert refused(NONE, options, inbound()).error == "session_required"


def test_mistakes_of_operators_and_visitors_are_named() -> None:
    assert (bad_option("x").status, bad_option("x").message) == (500, "x")
    assert forged(["x_session_id"]).status == 403
    assert "'x_session_id'" in forged(["x_session_id"]).message
    assert len(forged(["x" * 10_000]).message) < 200
