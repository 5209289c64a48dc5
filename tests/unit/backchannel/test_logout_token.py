"""Each rule of OpenID Connect Back-Channel Logout 1.0, section 2.6, except the signature."""

from datetime import timedelta
from typing import Any

import pytest

from session_authority.backchannel import Provider
from session_authority.backchannel.logout_token import LOGOUT_AGE_SECONDS, read_logout
from session_authority.backchannel.signal import EndedIdentity
from session_authority.backchannel.signed_token import LEEWAY_SECONDS, Fault, Refused, parse
from tests.support.provider_tokens import (
    CLIENT_ID,
    ISSUER,
    LOGOUT_EVENT,
    NOON,
    PROVIDER,
    SESSION_REVOKED,
    logout_claims,
    signing_key,
)

SECONDS = int(NOON.timestamp())
OTHER_CLIENT = Provider(ISSUER, "phone app", PROVIDER.jwks_url)
OTHER_ISSUER = Provider("https://other.example", CLIENT_ID)
EVENT_OF_CAEP: dict[str, Any] = {SESSION_REVOKED: {}}


def read(header: dict[str, Any] | None = None, **changes: Any) -> EndedIdentity | None:
    token = parse(signing_key().sign(logout_claims(**changes), **(header or {})))
    return read_logout(token, (OTHER_ISSUER, PROVIDER, OTHER_CLIENT), NOON).ended


def test_a_token_names_the_session_and_the_user() -> None:
    token = parse(signing_key().sign(logout_claims()))
    signal = read_logout(token, [PROVIDER], NOON)
    assert signal.ended == EndedIdentity(ISSUER, "ada", "there-1")
    assert (signal.provider, signal.token_id) == (PROVIDER, "one")
    assert signal.accepted_until == SECONDS + LOGOUT_AGE_SECONDS + LEEWAY_SECONDS


def test_sub_or_sid_is_enough() -> None:
    assert read(sid=...) == EndedIdentity(ISSUER, "ada", None)
    assert read(sub=...) == EndedIdentity(ISSUER, None, "there-1")


@pytest.mark.parametrize(
    "kind", ["logout+jwt", "LOGOUT+JWT", "application/logout+jwt", "JWT", None]
)
def test_the_types_of_logout_tokens_are_accepted(kind: str | None) -> None:
    assert read({"typ": kind})


@pytest.mark.parametrize("kind", ["at+jwt", "secevent+jwt", "dpop+jwt", "x"])
def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(Refused, match="typ must be logout"):
        read({"typ": kind})


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "phone app"]},
        {"aud": "phone app"},
        {"azp": CLIENT_ID},
        {"iat": SECONDS + LEEWAY_SECONDS},
        {"iat": SECONDS - LOGOUT_AGE_SECONDS - LEEWAY_SECONDS, "exp": SECONDS + 1},
        {"exp": SECONDS - LEEWAY_SECONDS + 1},
        {"exp": SECONDS + 0.5},
        {"events": {LOGOUT_EVENT: {"more": 1}, "https://more.example": {}}},
        {"not-understood": 1},
    ],
)
def test_these_claims_are_accepted(changes: dict[str, Any]) -> None:
    assert read(**changes) == EndedIdentity(ISSUER, "ada", "there-1")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"iss": ...}, "iss must be a text"),
        ({"iss": 7}, "iss must be a text"),
        ({"iat": ...}, "iat must be a time"),
        ({"iat": "now"}, "iat must be a time"),
        ({"iat": True}, "iat must be a time"),
        ({"iat": -1}, "iat must be a time"),
        ({"iat": 10**400}, "iat must be a time"),
        ({"iat": float("nan")}, "iat must be a time"),
        ({"iat": float("inf")}, "iat must be a time"),
        ({"iat": SECONDS + LEEWAY_SECONDS + 1}, "iat is in the future"),
        (
            {"iat": SECONDS - LOGOUT_AGE_SECONDS - LEEWAY_SECONDS - 1},
            "iat is more than 600 seconds",
        ),
        ({"exp": ...}, "exp must be a time"),
        ({"exp": None}, "exp must be a time"),
        ({"exp": SECONDS - LEEWAY_SECONDS}, "has expired"),
        ({"jti": ...}, "jti must be a text"),
        ({"jti": ""}, "jti must be a text"),
        ({"jti": 7}, "jti must be a text"),
        ({"sub": ..., "sid": ...}, "needs sub or sid"),
        ({"sub": ""}, "sub must be a text"),
        ({"sid": None}, "sid must be a text"),
        ({"sid": ["a"]}, "sid must be a text"),
        ({"events": ...}, "events must be an object"),
        ({"events": LOGOUT_EVENT}, "events must be an object"),
        ({"events": [LOGOUT_EVENT]}, "events must be an object"),
        ({"events": {}}, "events must be an object"),
        ({"events": EVENT_OF_CAEP}, "events must contain http://schemas.openid.net"),
        ({"events": {LOGOUT_EVENT: None}}, "the event must be an object"),
        ({"events": {LOGOUT_EVENT: []}}, "the event must be an object"),
        ({"nonce": "n"}, "nonce must be absent"),
        ({"nonce": None}, "nonce must be absent"),
    ],
)
def test_these_claims_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(Refused, match=problem) as refused:
        read(**changes)
    assert refused.value.fault is Fault.INVALID_REQUEST


@pytest.mark.parametrize("issuer", ["https://evil.example", ISSUER + "/", ISSUER.upper()])
def test_another_issuer_is_refused(issuer: str) -> None:
    with pytest.raises(Refused) as refused:
        read(iss=issuer)
    assert refused.value.fault is Fault.INVALID_ISSUER


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ...},
        {"aud": "other"},
        {"aud": []},
        {"aud": 7},
        {"aud": [CLIENT_ID, 7]},
        {"aud": {CLIENT_ID: 1}},
        {"aud": [CLIENT_ID, "other"]},
        {"aud": [CLIENT_ID, "phone app"], "azp": "other"},
    ],
)
def test_another_audience_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        read(**changes)
    assert refused.value.fault is Fault.INVALID_AUDIENCE


def test_a_client_of_another_provider_is_no_audience_of_this_one() -> None:
    token = parse(signing_key().sign(logout_claims(iss=OTHER_ISSUER.issuer, aud="phone app")))
    with pytest.raises(Refused) as refused:
        read_logout(token, (OTHER_ISSUER, OTHER_CLIENT), NOON)
    assert refused.value.fault is Fault.INVALID_AUDIENCE


def test_a_clock_that_runs_late_or_early_by_a_minute_is_tolerated() -> None:
    token = parse(signing_key().sign(logout_claims()))
    for skew in (-60, 60):
        assert read_logout(token, [PROVIDER], NOON + timedelta(seconds=skew)).ended
