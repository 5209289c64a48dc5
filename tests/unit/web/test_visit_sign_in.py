"""Signing in, signing out and re-authenticating during a visit."""

from datetime import UTC, timedelta

import pytest

from session_authority import (
    Identity,
    InvalidArgument,
    Rejection,
    RejectionReason,
    Unavailable,
)
from session_authority.web.client_ip import ClientIp
from session_authority.web.site import Site
from tests.unit.web.visiting import CLEARED, LIVE, NOON, Authority, look_up, set_cookies, visit


def test_signing_in_sends_client_and_time_of_the_request_and_sets_the_cookie() -> None:
    authority = Authority()
    site = Site(client_ip=ClientIp(["10.0.0.0/8"]), clock=lambda: NOON)
    it = visit(site=site, peer="10.0.0.1", x_forwarded_for="203.0.113.7", user_agent="Firefox")

    session = authority.run(
        it.sign_in(
            "ana",
            authentication_methods=["pwd"],
            lifetime=timedelta(days=1),
            identity=Identity("https://id.example", "u-1"),
        )
    )

    (request,) = authority.requests
    assert request.user_id == "ana"
    assert request.ip_address == "203.0.113.7"
    assert request.user_agent == "Firefox"
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert request.authentication_methods == ["pwd"]
    assert request.lifetime.ToTimedelta() == timedelta(days=1)
    identity = request.identity
    assert (identity.issuer, identity.subject, identity.sid) == ("https://id.example", "u-1", "")
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
def test_a_user_agent_is_decoded_as_utf_8(sent: bytes, recorded: str) -> None:
    authority = Authority()
    it = visit(
        user_agent=sent.decode("latin-1")
    )  # web servers pass the header to apps in this form
    authority.run(it.sign_in("ana"))
    authority.run(it.adopt("ana", NOON, b"r" * 32))

    assert [each.user_agent for each in authority.requests if hasattr(each, "user_agent")] == [
        recorded
    ] * 2


def test_a_decoded_user_agent_stays_unchanged() -> None:
    authority = Authority()
    authority.run(visit(user_agent="微信/8.0.50").sign_in("ana"))

    assert authority.requests[0].user_agent == "微信/8.0.50"


def test_signing_in_can_send_an_earlier_time_of_the_credential_check() -> None:
    authority = Authority()

    authority.run(visit().sign_in("ana", authenticate_time=NOON - timedelta(minutes=3)))

    assert authority.requests[0].authenticate_time.ToDatetime(UTC) == NOON - timedelta(minutes=3)


def test_a_cookie_that_ends_with_the_browser_has_no_max_age() -> None:
    it = visit()
    Authority().run(it.sign_in("ana", persistent=False))
    assert set_cookies(it) == [("__Host-auth_session", "ses_new", None)]


def test_the_sessions_that_a_new_sign_in_replaces_are_ended() -> None:
    authority = Authority()
    it = visit("ses_a", "ses_b")

    authority.run(it.sign_in("ana"))

    assert [request.session_token for request in authority.requests[1:]] == ["ses_a", "ses_b"]


def test_a_sign_in_succeeds_even_if_the_replaced_session_cannot_be_ended(
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


def test_a_sign_in_whose_response_is_not_sent_is_ended() -> None:
    it, authority = visit("ses_old"), Authority()
    authority.run(it.sign_in("ana"))
    authority.run(it.take_back())

    assert [each.session_token for each in authority.requests[1:]] == ["ses_old", "ses_new"]
    assert not it.outcome
    assert set_cookies(it) == CLEARED


def test_a_visit_without_a_sign_in_has_nothing_to_undo() -> None:
    it, authority = visit("ses_a"), Authority()
    look_up(it, lambda _: LIVE)
    authority.run(it.take_back())

    assert authority.requests == []
    assert it.session is LIVE


def test_after_the_response_has_started_no_session_is_created() -> None:
    it, authority = visit("ses_a"), Authority()
    it.responded = True
    for late in (it.sign_in("ana"), it.reauthenticate()):
        with pytest.raises(RuntimeError, match="the response has begun"):
            authority.run(late)

    assert authority.requests == []


def test_signing_out_ends_the_sessions_of_all_presented_tokens_and_clears_the_cookie() -> None:
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


def test_signing_out_without_a_session_makes_no_call() -> None:
    authority = Authority()
    it = visit()

    authority.run(it.sign_out())

    assert authority.requests == []
    assert set_cookies(it) == []


def test_reauthentication_replaces_the_live_token_in_the_cookie() -> None:
    authority = Authority()
    it = visit("ses_a", "ses_b")
    look_up(it, lambda token: LIVE if token == "ses_b" else RejectionReason.REVOKED)

    authority.run(it.reauthenticate(authentication_methods=["otp"]))

    (request,) = authority.requests
    assert request.session_token == "ses_b"
    assert request.authenticate_time.ToDatetime(UTC) == NOON
    assert it.token == "ses_renewed"
    assert set_cookies(it) == [("__Host-auth_session", "ses_renewed", 34_560_000)]


def test_concurrent_adoptions_of_one_login_send_equal_requests() -> None:
    authority = Authority()
    for forwarded in ("203.0.113.7", "2001:db8::5"):  # a browser that uses IPv4 and IPv6
        it = visit(
            site=Site(client_ip=ClientIp(["10.0.0.0/8"])),
            peer="10.0.0.1",
            x_forwarded_for=forwarded,
        )
        authority.run(it.adopt("ana", NOON, b"r" * 32))

    first, second = authority.requests
    assert first == second
    assert first.retry_secret == b"r" * 32


def test_an_invalid_sign_in_raises_in_the_app() -> None:
    with pytest.raises(InvalidArgument):
        Authority().run(visit().sign_in("ana", authenticate_time=NOON.replace(tzinfo=None)))
