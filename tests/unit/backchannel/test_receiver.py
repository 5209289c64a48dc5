"""The answers to providers, and when their tokens are carried out."""

import json
import logging
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from session_authority.backchannel.key_source import (
    FRESH_SECONDS,
    PAUSE_SECONDS,
    USABLE_SECONDS,
)
from session_authority.backchannel.receiver import Answer, Outcome, Posted
from session_authority.backchannel.signal import EndedIdentity
from session_authority.errors import InternalError, InvalidArgument, PermissionMissing, Unavailable
from tests.support.provider_tokens import (
    ISSUER,
    SESSION_REVOKED,
    SigningKey,
    event_claims,
    logout_claims,
    signing_key,
)
from tests.unit.backchannel.receiving import EFFECTIVE, EVENT, FORM, FakeProvider, Receiving

KEY = signing_key()
NEW_KEY = signing_key("second")
ADA = EndedIdentity(ISSUER, "ada", "there-1")


@pytest.fixture
def receiving() -> Receiving:
    return Receiving(FakeProvider([KEY]))


def event(**changes: Any) -> str:
    return KEY.sign(event_claims(**changes), typ="secevent+jwt")


def headers(answer: Answer) -> dict[str, str]:
    return dict(answer.headers)


def test_a_logout_token_ends_the_sessions_of_its_identity(receiving: Receiving) -> None:
    answer = receiving.logout(KEY.sign(logout_claims()))
    assert (answer.status, answer.outcome) == (200, Outcome.ENDED)
    assert json.loads(answer.body) == {"effective_time": EFFECTIVE.isoformat()}
    assert headers(answer) == {"content-type": "application/json", "cache-control": "no-store"}
    assert receiving.ended == [ADA]


def test_a_security_event_ends_the_sessions_of_its_subject(receiving: Receiving) -> None:
    answer = receiving.push(event())
    assert (answer.status, answer.body, answer.outcome) == (202, b"", Outcome.ENDED)
    assert receiving.ended == [EndedIdentity(ISSUER, "ada", None)]


def test_other_events_are_acknowledged_and_end_nothing(receiving: Receiving) -> None:
    answer = receiving.push(event(events={"https://example.com/other": {}}, sub_id=...))
    assert (answer.status, answer.outcome) == (202, Outcome.IGNORED)
    assert receiving.ended == []


def test_a_logout_token_is_carried_out_once(receiving: Receiving) -> None:
    token = KEY.sign(logout_claims())
    assert receiving.logout(token).status == 200
    answer = receiving.logout(token)
    assert (answer.status, answer.outcome) == (400, Outcome.REPEATED)
    assert receiving.logout(KEY.sign(logout_claims(sub="bob"))).outcome is Outcome.REPEATED
    assert receiving.logout(KEY.sign(logout_claims(jti="two"))).status == 200
    assert len(receiving.ended) == 2


def test_an_event_is_carried_out_once_and_acknowledged_again(receiving: Receiving) -> None:
    assert [receiving.push(event()).outcome for _ in range(2)] == [
        Outcome.ENDED,
        Outcome.REPEATED,
    ]
    assert receiving.push(event()).status == 202
    assert len(receiving.ended) == 1


def test_a_replay_is_refused_for_as_long_as_the_token_is_accepted(receiving: Receiving) -> None:
    token = KEY.sign(logout_claims(exp=2**40))
    receiving.logout(token)
    for _ in range(12):
        receiving.now += timedelta(minutes=1)
        answer = receiving.logout(token)
        assert answer.status == 400
    assert answer.outcome is Outcome.REFUSED  # by now, it is too old


def test_a_token_that_could_not_be_carried_out_may_be_repeated(receiving: Receiving) -> None:
    token, pushed = KEY.sign(logout_claims()), event()
    receiving.error = Unavailable()
    logout, push = receiving.logout(token), receiving.push(pushed)
    assert (logout.status, logout.outcome) == (400, Outcome.UNAVAILABLE)
    assert (push.status, headers(push)["retry-after"]) == (503, "5")
    receiving.error = None
    assert receiving.logout(token).status == 200
    assert receiving.push(pushed).status == 202


@pytest.mark.parametrize("error", [PermissionMissing(), InternalError()])
def test_a_fault_of_this_program_is_logged(
    receiving: Receiving, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.error = error  # type: ignore[assignment]
    logout, push = receiving.logout(KEY.sign(logout_claims())), receiving.push(event())
    assert (logout.status, push.status) == (400, 500)
    assert b"see the log" in logout.body
    assert logout.outcome is push.outcome is Outcome.FAILED
    assert [each.levelno for each in caplog.records] == [logging.ERROR] * 2


def test_an_identity_that_the_authority_does_not_accept_is_refused(receiving: Receiving) -> None:
    receiving.error = InvalidArgument("subject: must have at most 255 bytes")
    logout, push = receiving.logout(KEY.sign(logout_claims())), receiving.push(event())
    assert (logout.status, push.status) == (400, 400)
    assert b"is too long" in logout.body


def test_a_refusal_says_which_rule_is_broken(
    receiving: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logout = receiving.logout(KEY.sign(logout_claims(nonce="n", sub="secret-user")))
    assert logout.status == 400
    assert json.loads(logout.body) == {
        "error": "invalid_request",
        "error_description": "nonce must be absent, because an ID token must not pass for a logout token",
    }
    push = receiving.push(event(aud="other"))
    assert json.loads(push.body) == {
        "err": "invalid_audience",
        "description": "aud does not contain the client id",
    }
    assert headers(push)["content-language"] == "en"
    assert receiving.ended == []
    assert receiving.provider.fetches == 0  # the claims are checked before keys are fetched
    assert "secret-user" not in caplog.text


def test_a_flood_of_refusals_fills_no_log(
    receiving: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(30):
        receiving.logout("a.b.c")
        receiving.now += timedelta(seconds=0.1)
    assert len(caplog.records) == 3


def test_other_methods_are_refused(receiving: Receiving) -> None:
    for method in (receiving.receiver.logout, receiving.receiver.event):
        for verb in ("GET", "HEAD", "PUT", "OPTIONS"):
            answer = receiving.post(method, b"", FORM, verb)
            assert (answer.status, headers(answer)["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("body", "content_type", "problem"),
    [
        (None, FORM, "too large"),
        (b"", FORM, "one logout_token"),
        (b"logout_token=", FORM, "one logout_token"),
        (b"logout_token=a&logout_token=b", FORM, "one logout_token"),
        (b"other=1", FORM, "one logout_token"),
        (b"\xff=\xff", FORM, "not a form"),
        (b"&".join([b"a=1"] * 100), FORM, "not a form"),
        (b"logout_token=%FF%00", FORM, "not a signed token"),
        (b"logout_token=a", "application/json", "Content-Type must be"),
        (b"logout_token=a", "", "Content-Type must be"),
        (b'{"logout_token": "a"}', "multipart/form-data; boundary=x", "Content-Type must be"),
    ],
)
def test_a_request_that_is_no_logout_is_refused(
    receiving: Receiving, body: bytes | None, content_type: str, problem: str
) -> None:
    answer = receiving.post(receiving.receiver.logout, body, content_type)
    assert answer.status == 400
    assert problem in json.loads(answer.body)["error_description"]


def test_other_fields_of_the_form_are_ignored(receiving: Receiving) -> None:
    body = urlencode({"a": "1", "logout_token": KEY.sign(logout_claims()), "b": ""}).encode()
    content_type = "Application/X-WWW-Form-Urlencoded; charset=utf-8"
    assert receiving.post(receiving.receiver.logout, body, content_type).status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (None, EVENT, 413),
        (b"", EVENT, 400),
        (b"\xff", EVENT, 400),
        (b"a.b.c", EVENT, 400),
        (b"a.b.c", FORM, 400),
    ],
)
def test_a_request_that_is_no_event_is_refused(
    receiving: Receiving, body: bytes | None, content_type: str, status: int
) -> None:
    answer = receiving.post(receiving.receiver.event, body, content_type)
    assert (answer.status, json.loads(answer.body)["err"]) == (status, "invalid_request")


def test_the_keys_are_fetched_once_and_then_kept(receiving: Receiving) -> None:
    for number in range(5):
        assert receiving.logout(KEY.sign(logout_claims(jti=str(number)))).status == 200
    assert receiving.provider.fetches == 1
    receiving.steady.seconds += FRESH_SECONDS + 1
    assert receiving.logout(KEY.sign(logout_claims(jti="later"))).status == 200
    assert receiving.provider.fetches == 2


def test_a_new_key_of_the_provider_is_fetched(receiving: Receiving) -> None:
    receiving.logout(KEY.sign(logout_claims()))
    receiving.provider.keys = [KEY, NEW_KEY]
    receiving.steady.seconds += PAUSE_SECONDS
    assert receiving.logout(NEW_KEY.sign(logout_claims(jti="two"))).status == 200
    assert receiving.provider.fetches == 2


def test_a_new_key_with_an_old_name_is_fetched(receiving: Receiving) -> None:
    receiving.logout(KEY.sign(logout_claims()))
    renamed = SigningKey(KEY.key_id, "RS256", NEW_KEY.private)
    receiving.provider.keys = [renamed]
    receiving.steady.seconds += PAUSE_SECONDS
    assert receiving.logout(renamed.sign(logout_claims(jti="two"))).status == 200


def test_a_withdrawn_key_is_refused_once_the_keys_are_fetched_again(receiving: Receiving) -> None:
    receiving.logout(KEY.sign(logout_claims()))
    receiving.provider.keys = [NEW_KEY]
    receiving.steady.seconds += FRESH_SECONDS + 1
    answer = receiving.logout(KEY.sign(logout_claims(jti="two")))
    assert (answer.status, answer.outcome) == (400, Outcome.REFUSED)


def test_forged_tokens_fetch_the_keys_at_most_once_in_a_pause(receiving: Receiving) -> None:
    receiving.logout(KEY.sign(logout_claims()))
    outcomes = []
    for number in range(10):
        receiving.steady.seconds += PAUSE_SECONDS / 5
        forged = SigningKey(f"unknown-{number}", "RS256", NEW_KEY.private)
        answer = receiving.push(forged.sign(event_claims(jti=f"{number}"), typ="secevent+jwt"))
        outcomes.append((answer.status, answer.outcome))
    assert receiving.provider.fetches == 3
    # In a pause, the key may be newer than the keys that are known. So the provider may try again.
    assert outcomes.count((400, Outcome.REFUSED)) == 2
    assert outcomes.count((503, Outcome.REFUSED)) == 8
    assert receiving.ended == [ADA]


def test_a_bad_signature_is_refused_without_a_fetch_in_a_pause(receiving: Receiving) -> None:
    thief = SigningKey(KEY.key_id, "RS256", NEW_KEY.private)
    assert receiving.push(thief.sign(event_claims(), typ="secevent+jwt")).status == 400
    assert receiving.push(thief.sign(event_claims(), typ="secevent+jwt")).status == 400
    assert receiving.provider.fetches == 1


def test_without_keys_no_token_is_accepted(
    receiving: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.provider.is_down = True
    for _ in range(3):
        logout, push = receiving.logout(KEY.sign(logout_claims())), receiving.push(event())
        assert (logout.status, push.status) == (400, 503)
        assert logout.outcome is push.outcome is Outcome.UNAVAILABLE
    assert b"the logout failed; try again later" in logout.body
    assert receiving.provider.fetches == 1
    assert [each.message for each in caplog.records] == [
        f"the keys of {ISSUER} can't be fetched: it does not answer"
    ]
    receiving.provider.is_down = False
    receiving.steady.seconds += PAUSE_SECONDS
    assert receiving.logout(KEY.sign(logout_claims())).status == 200


def test_known_keys_are_used_for_a_while_if_the_provider_is_down(receiving: Receiving) -> None:
    receiving.logout(KEY.sign(logout_claims()))
    receiving.provider.is_down = True
    receiving.steady.seconds += USABLE_SECONDS
    assert receiving.logout(KEY.sign(logout_claims(jti="two"))).status == 200
    unknown = NEW_KEY.sign(event_claims(), typ="secevent+jwt")
    assert receiving.push(unknown).status == 503
    receiving.steady.seconds += PAUSE_SECONDS
    answer = receiving.logout(KEY.sign(logout_claims(jti="three")))
    assert (answer.status, answer.outcome) == (400, Outcome.UNAVAILABLE)


def test_nothing_of_a_request_is_in_a_repr(receiving: Receiving) -> None:
    assert "secret" not in repr(Posted("POST", FORM, b"secret"))
    assert SESSION_REVOKED not in repr(receiving.receiver)
