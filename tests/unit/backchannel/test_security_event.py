"""The rules of security events, except the signature."""

from typing import Any

import pytest

from session_authority.backchannel.security_event import EVENT_AGE_SECONDS, read_event
from session_authority.backchannel.signal import EndedIdentity
from session_authority.backchannel.signed_token import LEEWAY_SECONDS, Fault, Refused, parse
from tests.support.provider_tokens import (
    CLIENT_ID,
    ISSUER,
    NOON,
    PROVIDER,
    SESSION_REVOKED,
    event_claims,
    signing_key,
)

SECONDS = int(NOON.timestamp())
USER = {"format": "iss_sub", "iss": ISSUER, "sub": "ada"}
SESSION = {"format": "opaque", "id": "there-1"}
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


def complex_subject(**parts: Any) -> dict[str, Any]:
    return {"format": "complex", **parts}


def read(kind: str | None = "secevent+jwt", **changes: Any) -> EndedIdentity | None:
    token = parse(signing_key().sign(event_claims(**changes), typ=kind))
    signal = read_event(token, [PROVIDER], NOON)
    assert signal.accepted_until == token.claims["iat"] + EVENT_AGE_SECONDS + LEEWAY_SECONDS
    return signal.ended


@pytest.mark.parametrize(
    ("subject", "ended"),
    [
        (USER, EndedIdentity(ISSUER, "ada", None)),
        (complex_subject(user=USER), EndedIdentity(ISSUER, "ada", None)),
        (complex_subject(session=SESSION), EndedIdentity(ISSUER, None, "there-1")),
        (complex_subject(user=USER, session=SESSION), EndedIdentity(ISSUER, "ada", "there-1")),
        (
            complex_subject(user=USER, tenant={"format": "opaque", "id": "t"}),
            EndedIdentity(ISSUER, "ada", None),
        ),
    ],
)
def test_the_subject_says_which_sessions_end(subject: dict[str, Any], ended: EndedIdentity) -> None:
    assert read(sub_id=subject) == ended


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [CLIENT_ID, "other receiver"]},
        {"iat": SECONDS - EVENT_AGE_SECONDS},
        {"exp": SECONDS + 1},
        {"txn": "7"},
        {"events": {SESSION_REVOKED: {"initiating_entity": "policy", "reason_admin": {"en": "x"}}}},
    ],
)
def test_these_claims_are_accepted(changes: dict[str, Any]) -> None:
    assert read(**changes) == EndedIdentity(ISSUER, "ada", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"events": {VERIFICATION: {"state": "abc"}}, "sub_id": {"format": "opaque", "id": "s"}},
        {"events": {VERIFICATION: {}}, "sub_id": ...},
        {"events": {"https://example.com/event": {}}, "sub_id": {"format": "email", "email": "a"}},
    ],
)
def test_other_events_ask_for_nothing(changes: dict[str, Any]) -> None:
    assert read(**changes) is None


@pytest.mark.parametrize("kind", ["logout+jwt", "JWT", None, "at+jwt"])
def test_other_types_are_refused(kind: str | None) -> None:
    with pytest.raises(Refused, match="typ must be secevent"):
        read(kind)


@pytest.mark.parametrize(
    ("changes", "problem", "fault"),
    [
        ({"iss": "https://evil.example"}, "iss is not", Fault.INVALID_ISSUER),
        ({"aud": "other receiver"}, "aud does not", Fault.INVALID_AUDIENCE),
        ({"iat": ...}, "iat must be", Fault.INVALID_REQUEST),
        ({"iat": SECONDS - 86_461}, "iat is more than 86400 seconds", Fault.INVALID_REQUEST),
        ({"iat": SECONDS + 61}, "iat is in the future", Fault.INVALID_REQUEST),
        ({"exp": SECONDS - 61}, "has expired", Fault.INVALID_REQUEST),
        ({"jti": ...}, "jti must be", Fault.INVALID_REQUEST),
        ({"events": {}}, "events must be", Fault.INVALID_REQUEST),
        ({"events": {SESSION_REVOKED: 7}}, "the event must be", Fault.INVALID_REQUEST),
    ],
)
def test_these_claims_are_refused(changes: dict[str, Any], problem: str, fault: Fault) -> None:
    with pytest.raises(Refused, match=problem) as refused:
        read(**changes)
    assert refused.value.fault is fault


@pytest.mark.parametrize(
    "subject",
    [
        ...,
        None,
        "ada",
        {},
        {"format": "email", "email": "ada@example.com"},
        {"format": "opaque", "id": "ada"},
        {"format": ["iss_sub"]},
        {"format": "iss_sub", "iss": ISSUER},
        {"format": "iss_sub", "iss": ISSUER, "sub": ""},
        {"format": "iss_sub", "sub": "ada"},
        {"format": "iss_sub", "iss": "https://other.example", "sub": "ada"},
        complex_subject(),
        complex_subject(tenant={"format": "opaque", "id": "t"}),
        complex_subject(user=USER, device={"format": "opaque", "id": "d"}),
        complex_subject(user="ada"),
        complex_subject(user={"format": "email", "email": "ada@example.com"}),
        complex_subject(user={**USER, "iss": "https://other.example"}),
        complex_subject(user=USER, session="there-1"),
        complex_subject(user=USER, session={"format": "iss_sub", "iss": ISSUER, "sub": "a"}),
        complex_subject(session={"format": "opaque", "id": 7}),
    ],
)
def test_a_subject_that_names_no_sign_in_is_refused(subject: object) -> None:
    with pytest.raises(Refused, match="sub_id"):
        read(sub_id=subject)
