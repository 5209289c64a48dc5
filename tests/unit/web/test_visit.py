from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from session_authority import (
    Device,
    InvalidArgument,
    ReauthenticationRequired,
    Rejection,
    RejectionReason,
    Session,
    SessionAuthorityError,
    SessionState,
    Unavailable,
    ValidationRequest,
)
from session_authority._core import Operation
from session_authority.v1 import session_service_pb2 as v1
from session_authority.web.client_ip import ClientIp
from session_authority.web.site import Arrival, Site
from session_authority.web.visit import Visit
from tests.support.fake_authority import NOON_MESSAGE, created, session_message

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LIVE = Session(
    session_id="s-1",
    user_id="ana",
    state=SessionState.ACTIVE,
    current=False,
    device=Device(),
    create_time=NOON,
    authenticate_time=NOON,
    last_active_time=NOON,
    expire_time=NOON + timedelta(days=90),
)
CLEARING = [
    RejectionReason.NOT_FOUND,
    RejectionReason.SIGNED_OUT,
    RejectionReason.REVOKED,
    RejectionReason.EXPIRED,
    RejectionReason.IDLE_TIMEOUT,
    RejectionReason.LIMIT,
]

T = TypeVar("T")


@dataclass
class Authority:
    """Answers the calls of an operation, each as told."""

    failing: Mapping[str, SessionAuthorityError] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)

    def run(self, operation: Operation[T]) -> T:
        try:
            call = next(operation)
            while True:
                method = call.method.rpartition("/")[2]
                request = getattr(v1, method + "Request").FromString(call.payload)
                self.requests.append(request)
                if method in self.failing:
                    call = operation.throw(self.failing[method])
                else:
                    call = operation.send(_answer(method))
        except StopIteration as done:
            result: T = done.value
            return result


def _answer(method: str) -> bytes:
    match method:
        case "CreateSession":
            return created(token="ses_new").SerializeToString()
        case "ReauthenticateSession":
            return v1.ReauthenticateSessionResponse(
                session=session_message(), session_token="ses_renewed"
            ).SerializeToString()
        case _:
            return v1.SignOutResponse(effective_time=NOON_MESSAGE).SerializeToString()


def visit(
    *tokens: str,
    site: Site | None = None,
    scheme: str = "https",
    host: str = "app.example",
    peer: str = "8.8.8.8",
    **headers: str,
) -> Visit:
    cookie = "; ".join(f"__Host-auth_session={token}" for token in tokens)
    known = {"cookie": cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Visit(
        site or Site(clock=lambda: NOON),
        Arrival(scheme, host, peer, lambda name: known.get(name, "")),
    )


def look_up(it: Visit, answers: Callable[[str], Session | RejectionReason]) -> list[str]:
    """Answer the visit's questions, and return the tokens that it asked about."""
    asked = [str(question.token) for question in it.to_ask()]
    if asked:
        outcomes = map(answers, asked)
        it.answered([each if isinstance(each, Session) else Rejection(each) for each in outcomes])
    return asked


def set_cookies(it: Visit) -> list[tuple[str, str, int | None]]:
    return [(each.name, each.value, each.max_age_seconds) for each in it.set_cookies]


CLEARED = [("__Host-auth_session", "", 0)]


def test_whoever_presents_nothing_is_nobody_without_a_question() -> None:
    it = visit()

    assert look_up(it, lambda _: LIVE) == []
    assert it.outcome == Rejection(RejectionReason.NOT_FOUND)
    assert it.session is None
    assert set_cookies(it) == []


def test_the_authority_is_asked_once() -> None:
    it = visit("ses_a")

    assert look_up(it, lambda _: LIVE) == ["ses_a"]
    assert look_up(it, lambda _: LIVE) == []
    assert it.session is LIVE
    assert it.token == "ses_a"
    assert set_cookies(it) == []


@pytest.mark.parametrize("reason", CLEARING)
def test_a_rejection_clears_the_cookie(reason: RejectionReason) -> None:
    it = visit("ses_a")
    look_up(it, lambda _: reason)

    assert it.outcome == Rejection(reason)
    assert set_cookies(it) == CLEARED


@pytest.mark.parametrize(
    ("headers", "clears"),
    [
        ({}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, True),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-mode": "same-origin"}, False),
        ({"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, False),
        ({"sec-fetch-mode": "websocket"}, False),
        ({"sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch"}, False),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;prerender"}, False),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;anonymous-client-ip"}, False),
        ({"purpose": "prefetch"}, False),
        ({"purpose": "preview"}, False),
        ({"x-purpose": "preview"}, False),
        ({"x-moz": "prefetch"}, False),
        ({"x-sec-purpose": "prefetch"}, False),
        ({"x-requested-with": "XMLHttpRequest"}, False),
        ({"x-requested-with": "com.example.webview"}, True),
        ({"upgrade": "websocket"}, False),
    ],
)
def test_only_a_page_that_is_being_opened_clears_the_cookie(
    headers: dict[str, Any], clears: bool
) -> None:
    """Any other request may have started before a sign-in whose cookie it would clear."""
    it = visit("ses_a", **headers)
    look_up(it, lambda _: RejectionReason.REVOKED)

    assert not it.outcome
    assert set_cookies(it) == (CLEARED if clears else [])


@pytest.mark.parametrize("reason", [RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN])
def test_a_superseded_token_does_not_clear_its_successor(reason: RejectionReason) -> None:
    it = visit("ses_a")
    look_up(it, lambda _: reason)

    assert it.session is None
    assert set_cookies(it) == []


def test_every_reason_there_is_has_been_considered() -> None:
    assert {*CLEARING, RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN} == {
        reason for reason in RejectionReason if reason is not RejectionReason.USER_MISMATCH
    }


def test_without_an_answer_the_cookie_stays() -> None:
    it = visit("ses_a")

    assert it.to_ask() == [ValidationRequest("ses_a", ip_address="8.8.8.8")]
    # No answer comes.

    assert it.outcome is None
    assert set_cookies(it) == []


def test_answers_that_come_after_a_sign_in_of_the_request_change_nothing() -> None:
    it = visit("ses_a")
    asked = it.to_ask()
    Authority().run(it.sign_in("ana"))

    it.answered([Rejection(RejectionReason.REVOKED)] * len(asked))

    assert it.session is not None
    assert set_cookies(it) == [("__Host-auth_session", "ses_new", 34_560_000)]


def test_of_several_tokens_the_first_live_one_counts() -> None:
    it = visit("ses_dead", "ses_live", "ses_other")

    asked = look_up(it, lambda token: RejectionReason.REVOKED if token == "ses_dead" else LIVE)

    assert asked == ["ses_dead", "ses_live", "ses_other"]
    assert it.session is LIVE
    assert it.token == "ses_live"
    assert set_cookies(it) == []


def test_the_cookie_is_cleared_once_all_its_tokens_are_rejected() -> None:
    it = visit("ses_a", "ses_b")

    look_up(it, lambda _: RejectionReason.REVOKED)

    assert it.outcome == Rejection(RejectionReason.REVOKED)
    assert set_cookies(it) == CLEARED


def test_one_superseded_token_among_them_keeps_it() -> None:
    for first, second in (("ses_a", "ses_b"), ("ses_b", "ses_a")):
        it = visit(first, second)
        look_up(
            it,
            lambda token: (
                RejectionReason.SUPERSEDED if token == "ses_a" else RejectionReason.REVOKED
            ),
        )
        assert set_cookies(it) == []


def test_asking_again_forgets_the_answer() -> None:
    it = visit("ses_a")
    look_up(it, lambda _: LIVE)

    it.ask_again()

    assert look_up(it, lambda _: RejectionReason.REVOKED) == ["ses_a"]
    assert it.session is None
    assert set_cookies(it) == CLEARED


def test_signing_in_hands_out_the_token_and_tells_who_and_when_the_request_came_in() -> None:
    authority = Authority()
    site = Site(client_ip=ClientIp(["10.0.0.0/8"]), clock=lambda: NOON)
    it = visit(site=site, peer="10.0.0.1", x_forwarded_for="203.0.113.7", user_agent="Firefox")

    session = authority.run(
        it.sign_in("ana", authentication_methods=["pwd"], lifetime=timedelta(days=1))
    )

    (request,) = authority.requests
    assert request.user_id == "ana"
    assert request.ip_address == "203.0.113.7"
    assert request.user_agent == "Firefox"
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert request.authentication_methods == ["pwd"]
    assert request.lifetime.ToTimedelta() == timedelta(days=1)
    assert len(request.retry_secret) == 32
    assert it.session is session
    assert not it.to_ask()
    assert it.token == "ses_new"
    assert set_cookies(it) == [("__Host-auth_session", "ses_new", 34_560_000)]


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        ("Подкасты/1520.39".encode(), "Подкасты/1520.39"),
        ("微信/8.0.50".encode(), "微信/8.0.50"),
        (b"caf\xe9/1.0", "caf\ufffd/1.0"),
        (b"\xff\xfe\x00", "\ufffd\ufffd\x00"),
        (b"", ""),
    ],
)
def test_a_user_agent_is_utf_8(sent: bytes, recorded: str) -> None:
    authority = Authority()
    it = visit(user_agent=sent.decode("latin-1"))  # so do web servers hand it on
    authority.run(it.sign_in("ana"))
    authority.run(it.adopt("ana", NOON, b"r" * 32))

    assert [each.user_agent for each in authority.requests if hasattr(each, "user_agent")] == [
        recorded
    ] * 2


def test_a_user_agent_that_is_decoded_already_stays() -> None:
    authority = Authority()
    authority.run(visit(user_agent="微信/8.0.50").sign_in("ana"))

    assert authority.requests[0].user_agent == "微信/8.0.50"


def test_signing_in_with_a_check_that_began_earlier_says_so() -> None:
    authority = Authority()

    authority.run(visit().sign_in("ana", authenticate_time=NOON - timedelta(minutes=3)))

    assert authority.requests[0].authenticate_time.ToDatetime(UTC) == NOON - timedelta(minutes=3)


def test_a_cookie_that_goes_with_the_browser_has_no_age() -> None:
    it = visit()
    Authority().run(it.sign_in("ana", persistent=False))
    assert set_cookies(it) == [("__Host-auth_session", "ses_new", None)]


def test_the_sessions_that_a_new_sign_in_replaces_are_ended() -> None:
    authority = Authority()
    it = visit("ses_a", "ses_b")

    authority.run(it.sign_in("ana"))

    assert [request.session_token for request in authority.requests[1:]] == ["ses_a", "ses_b"]


def test_a_sign_in_stands_even_if_what_it_replaces_cannot_be_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = Authority({"SignOut": Unavailable()})
    it = visit("ses_a")

    assert authority.run(it.sign_in("ana"))

    assert set_cookies(it) == [("__Host-auth_session", "ses_new", 34_560_000)]
    assert "was not ended" in caplog.text
    assert "ses_a" not in caplog.text


def test_a_sign_in_that_fails_changes_nothing() -> None:
    authority = Authority({"CreateSession": Unavailable()})
    it = visit("ses_a")

    with pytest.raises(Unavailable):
        authority.run(it.sign_in("ana"))

    assert it.tokens == ("ses_a",)
    assert set_cookies(it) == []


def test_a_sign_in_that_no_browser_will_hear_of_is_ended() -> None:
    it, authority = visit("ses_old"), Authority()
    authority.run(it.sign_in("ana"))
    authority.run(it.take_back())

    assert [each.session_token for each in authority.requests[1:]] == ["ses_old", "ses_new"]
    assert not it.outcome
    assert set_cookies(it) == CLEARED


def test_there_is_nothing_to_take_back_where_nobody_signed_in() -> None:
    it, authority = visit("ses_a"), Authority()
    look_up(it, lambda _: LIVE)
    authority.run(it.take_back())

    assert authority.requests == []
    assert it.session is LIVE


def test_once_the_response_has_begun_no_token_is_asked_for() -> None:
    it, authority = visit("ses_a"), Authority()
    it.responded = True
    for late in (it.sign_in("ana"), it.reauthenticate()):
        with pytest.raises(RuntimeError, match="the response has begun"):
            authority.run(late)

    assert authority.requests == []


def test_signing_out_ends_all_that_was_presented_and_clears_the_cookie() -> None:
    authority = Authority()
    it = visit("ses_a", "ses_b")

    authority.run(it.sign_out())

    assert [request.session_token for request in authority.requests] == ["ses_a", "ses_b"]
    assert not it.to_ask()
    assert it.outcome == Rejection(RejectionReason.SIGNED_OUT)
    assert set_cookies(it) == CLEARED


def test_signing_out_in_an_outage_keeps_the_cookie() -> None:
    authority = Authority({"SignOut": Unavailable()})
    it = visit("ses_a")

    with pytest.raises(Unavailable):
        authority.run(it.sign_out())

    assert set_cookies(it) == []


def test_signing_out_nobody_is_done_without_a_call() -> None:
    authority = Authority()
    it = visit()

    authority.run(it.sign_out())

    assert authority.requests == []
    assert set_cookies(it) == []


def test_reauthentication_puts_the_new_token_in_the_place_of_the_live_one() -> None:
    authority = Authority()
    it = visit("ses_a", "ses_b")
    look_up(it, lambda token: LIVE if token == "ses_b" else RejectionReason.REVOKED)

    authority.run(it.reauthenticate(authentication_methods=["otp"]))

    (request,) = authority.requests
    assert request.session_token == "ses_b"
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert it.token == "ses_renewed"
    assert set_cookies(it) == [("__Host-auth_session", "ses_renewed", 34_560_000)]


def test_an_adoption_can_be_repeated_by_others_to_the_same_effect() -> None:
    authority = Authority()
    for forwarded in ("203.0.113.7", "2001:db8::5"):  # a browser with two stacks
        it = visit(
            site=Site(client_ip=ClientIp(["10.0.0.0/8"])),
            peer="10.0.0.1",
            x_forwarded_for=forwarded,
        )
        authority.run(it.adopt("ana", NOON, b"r" * 32))

    first, second = authority.requests
    assert first == second
    assert first.retry_secret == b"r" * 32


def test_a_proof_is_recent_for_as_long_as_was_said() -> None:
    it = visit("ses_a")
    for age, recent in ((600, True), (601, False)):
        it.ask_again()
        session = replace(LIVE, authenticate_time=NOON - timedelta(seconds=age))
        look_up(it, lambda _, session=session: session)  # type: ignore[misc]
        if recent:
            it.require_recent(timedelta(minutes=10))
        else:
            with pytest.raises(ReauthenticationRequired) as caught:
                it.require_recent(timedelta(minutes=10))
            assert caught.value.metadata == {"max_authentication_age_seconds": "600"}


def test_on_localhost_the_cookie_is_cleared_under_both_its_names() -> None:
    it = visit("ses_a", scheme="http", host="localhost:8000")
    look_up(it, lambda _: RejectionReason.REVOKED)
    assert set_cookies(it) == [("__Host-auth_session", "", 0), ("auth_session", "", 0)]


@pytest.mark.parametrize(
    ("peer", "proto", "origin"),
    [
        ("10.0.0.1", "https", "https://app.example"),
        ("10.0.0.1", "http, https", "https://app.example"),
        ("10.0.0.1", "gopher", "http://app.example"),
        ("10.0.0.1", "", "http://app.example"),
        ("8.8.8.8", "https", "http://app.example"),
    ],
)
def test_the_scheme_that_browsers_see_is_a_trusted_proxys_to_tell(
    peer: str, proto: str, origin: str
) -> None:
    site = Site(client_ip=ClientIp(["10.0.0.0/8"]))
    assert visit(site=site, scheme="http", peer=peer, x_forwarded_proto=proto).origin == origin


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("https", "app.example:443", "https://app.example"),
        ("https", "App.EXAMPLE", "https://app.example"),
        ("https", "app.example.", "https://app.example."),
        ("https", "app.example:8443", "https://app.example:8443"),
        ("http", "app.example:80", "http://app.example"),
        ("https", "[2001:DB8::0:5]:443", "https://[2001:db8::5]"),
        ("https", "", "https://"),
        ("https", "app.example, evil.example", "https://app.example, evil.example"),
    ],
)
def test_the_origin_of_a_request_is_in_its_normal_form(scheme: str, host: str, origin: str) -> None:
    assert visit(scheme=scheme, host=host).origin == origin


def test_the_origin_can_be_given() -> None:
    assert visit(site=Site(origin="https://app.example"), host="inner").origin == (
        "https://app.example"
    )


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "app.localhost", "127.0.0.1:80", "[::1]:8000"]
)
@pytest.mark.parametrize(
    ("site", "headers"),
    [
        (Site(origin="https://app.example"), {}),
        (Site(origin="HTTPS://App.Example:443/"), {}),
        (Site(origin="http://app.example"), {}),
        (Site(origin="https://localhost:8443"), {}),
        (Site(origin="https://app.example"), {"origin": "http://localhost:8000"}),
        (Site(origin="https://app.example"), {"origin": "null"}),
        (Site(), {"origin": "https://app.example"}),
        (Site(), {"x-forwarded-proto": "https"}),  # of a proxy that nobody named
        (Site(), {"forwarded": "for=203.0.113.7;Proto=HTTPS"}),
        (Site(), {"forwarded": 'for=203.0.113.7;host="app.example"'}),
        (Site(), {"x-forwarded-host": "app.example"}),
        (Site(), {"x-forwarded-host": "localhost, app.example:443"}),
        (Site(), {"x-forwarded-ssl": "on"}),
        (Site(), {"front-end-https": "On"}),
        (Site(), {"x-forwarded-scheme": "https"}),
        (Site(), {"x-url-scheme": "https"}),
        (Site(), {"cf-visitor": '{"scheme":"https"}'}),
        (Site(client_ip=ClientIp(["8.8.8.8"])), {"x-forwarded-proto": "https"}),
    ],
)
def test_behind_a_proxy_that_says_localhost_the_plain_cookie_is_neither_read_nor_set(
    site: Site, headers: dict[str, str], host: str
) -> None:
    planted = {"cookie": "auth_session=ses_evil"}
    it = visit(site=site, scheme="http", host=host, **planted, **headers)

    assert it.tokens == ()
    Authority().run(it.sign_in("ana"))
    assert [each.name for each in it.set_cookies] == ["__Host-auth_session"]
    assert it.set_cookies[0].secure


@pytest.mark.parametrize("origin", [None, "http://localhost:8000", "http://[::1]:8000"])
def test_a_site_in_development_uses_the_plain_cookie(origin: str | None) -> None:
    it = visit(
        site=Site(origin=origin),
        scheme="http",
        host="localhost:8000",
        cookie="auth_session=ses_a",
        **{"x-forwarded-host": "localhost:5173", "x-forwarded-proto": "http"},
    )

    assert it.tokens == ("ses_a",)


def test_whoever_serves_plain_http_is_told_once_why_nobody_stays_signed_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(clock=lambda: NOON)
    for _ in range(2):
        Authority().run(visit(site=site, scheme="http", host="192.0.2.1:8000").sign_in("ana"))

    (said,) = caplog.messages
    assert "http://192.0.2.1:8000, in plain HTTP" in said


@pytest.mark.parametrize(
    "it",
    [
        visit(),
        visit(scheme="http", host="localhost:8000"),
        visit(scheme="http", site=Site(origin="https://shop.example")),
        visit(
            scheme="http",
            site=Site(client_ip=ClientIp(["8.8.8.8"])),
            **{"x-forwarded-proto": "https"},
        ),
    ],
)
def test_where_browsers_keep_the_cookie_nobody_is_warned(
    it: Visit, caplog: pytest.LogCaptureFixture
) -> None:
    Authority().run(it.sign_in("ana"))

    assert [said for said in caplog.messages if "plain HTTP," in said] == []


def test_a_websocket_has_the_origin_of_its_page() -> None:
    assert visit(scheme="wss").origin == "https://app.example"


def test_what_is_wrong_with_a_sign_in_is_the_apps_to_know() -> None:
    with pytest.raises(InvalidArgument):
        Authority().run(visit().sign_in("ana", authenticate_time=NOON.replace(tzinfo=None)))
