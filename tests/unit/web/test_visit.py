"""The session of a request, and whether its cookie is kept."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from session_authority import (
    ReauthenticationRequired,
    Rejection,
    RejectionReason,
    ValidationRequest,
)
from tests.unit.web.visiting import CLEARED, LIVE, NOON, Authority, look_up, set_cookies, visit

CLEARING = [
    RejectionReason.NOT_FOUND,
    RejectionReason.SIGNED_OUT,
    RejectionReason.REVOKED,
    RejectionReason.EXPIRED,
    RejectionReason.IDLE_TIMEOUT,
    RejectionReason.LIMIT,
]


def test_a_request_without_a_cookie_has_no_session_and_makes_no_call() -> None:
    it = visit()

    assert look_up(it, lambda _: LIVE) == []
    assert it.outcome == Rejection(RejectionReason.NOT_FOUND)
    assert it.session is None
    assert set_cookies(it) == []


def test_a_visit_validates_each_token_once() -> None:
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
def test_only_a_navigation_clears_the_cookie(headers: dict[str, Any], clears: bool) -> None:
    """Any other request may have started before a sign-in whose cookie it would clear."""
    it = visit("ses_a", **headers)
    look_up(it, lambda _: RejectionReason.REVOKED)

    assert not it.outcome
    assert set_cookies(it) == (CLEARED if clears else [])


@pytest.mark.parametrize("reason", [RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN])
def test_a_superseded_token_does_not_clear_the_cookie(reason: RejectionReason) -> None:
    it = visit("ses_a")
    look_up(it, lambda _: reason)

    assert it.session is None
    assert set_cookies(it) == []


def test_every_rejection_reason_is_handled() -> None:
    assert {*CLEARING, RejectionReason.SUPERSEDED, RejectionReason.UNKNOWN} == {
        reason for reason in RejectionReason if reason is not RejectionReason.USER_MISMATCH
    }


def test_without_an_answer_the_cookie_stays() -> None:
    it = visit("ses_a")

    assert it.to_ask() == [ValidationRequest("ses_a", ip_address="8.8.8.8")]
    # The answers are missing.

    assert it.outcome is None
    assert set_cookies(it) == []


def test_answers_that_arrive_after_a_sign_in_change_nothing() -> None:
    it = visit("ses_a")
    asked = it.to_ask()
    Authority().run(it.sign_in("ana"))

    it.answered([Rejection(RejectionReason.REVOKED)] * len(asked))

    assert it.session is not None
    assert set_cookies(it) == [("__Host-auth_session", "ses_new", 34_560_000)]


def test_the_first_live_token_of_several_is_used() -> None:
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


def test_the_cookie_is_kept_if_one_of_its_tokens_is_superseded() -> None:
    for first, second in (("ses_a", "ses_b"), ("ses_b", "ses_a")):
        it = visit(first, second)
        look_up(
            it,
            lambda token: (
                RejectionReason.SUPERSEDED if token == "ses_a" else RejectionReason.REVOKED
            ),
        )
        assert set_cookies(it) == []


def test_a_forced_validation_discards_the_earlier_answer() -> None:
    it = visit("ses_a")
    look_up(it, lambda _: LIVE)

    it.ask_again()

    assert look_up(it, lambda _: RejectionReason.REVOKED) == ["ses_a"]
    assert it.session is None
    assert set_cookies(it) == CLEARED


def test_a_proof_is_recent_until_the_given_age() -> None:
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


def test_on_localhost_the_cookie_is_cleared_under_both_names() -> None:
    it = visit("ses_a", scheme="http", host="localhost:8000")
    look_up(it, lambda _: RejectionReason.REVOKED)
    assert set_cookies(it) == [("__Host-auth_session", "", 0), ("auth_session", "", 0)]
