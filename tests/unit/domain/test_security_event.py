"""The claims of security events."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from session_authority_server.domain import security_event
from session_authority_server.domain.event_stream import (
    ASSURANCE_LEVEL_CHANGE,
    RISK_LEVEL_CHANGE,
    SESSION_REVOKED,
    SOURCES,
)
from session_authority_server.domain.receiver import Delivery, EventType
from session_authority_server.domain.security_event import (
    STREAM_UPDATED,
    VERIFICATION,
    parse_token_id,
    stream_updated_body,
    verification_body,
)

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NOON_TEXT = "2026-01-15T12:00:00.000000Z"
NOON_SECONDS = int(NOON.timestamp())
ISSUER = "https://signals.example.com"
STREAM, EVENT = UUID(int=1), UUID(int=2)
ADA = {"user_id": "ada", "session_id": "s-1"}


def claims_of(event_type: EventType, data: Any, **body: Any) -> Any:
    payload = {"type": event_type.value, "timestamp": NOON_TEXT, "data": data, **body}
    return claims_of_payload(event_type, json.dumps(payload))


def claims_of_payload(event_type: EventType, payload: str) -> Any:
    delivery = Delivery(7, EVENT, "ada", event_type, payload, NOON)
    return security_event.claims(ISSUER, STREAM, "crm", delivery)


def ending(reason: str) -> Any:
    data = {**ADA, "end_time": NOON_TEXT, "reason": reason, "initiating_entity": "policy"}
    [event] = claims_of(EventType.SESSION_ENDED, data)["events"].values()
    return event


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("signed_out", "The user signed out."),
        ("revoked", "The session was revoked."),
        ("expired", "The session reached the end of its lifetime."),
        ("idle_timeout", "The session was unused for too long."),
        ("limit", "The user signed in elsewhere and had too many sessions."),
        ("a reason of a newer release", "The session ended."),
    ],
)
def test_an_ending_says_why(reason: str, sentence: str) -> None:
    assert ending(reason) == {
        "event_timestamp": NOON_SECONDS,
        "initiating_entity": "policy",
        "reason_admin": {"en": sentence},
    }


def test_a_sweep_of_everybody_is_about_the_tenant() -> None:
    data = {"everybody": True, "sweep_time": NOON_TEXT, "initiating_entity": "admin"}
    claims = claims_of(EventType.SESSIONS_SWEPT, data)
    assert claims["sub_id"] == {
        "format": "complex",
        "tenant": {"format": "opaque", "id": ISSUER},
    }
    reason = claims["events"][SESSION_REVOKED]["reason_admin"]
    assert reason == {"en": "All sessions of all users were revoked."}


@pytest.mark.parametrize(("methods", "level"), [(["pwd", "otp"], "pwd otp"), ([], "unspecified")])
def test_a_reauthentication_names_the_methods(methods: list[str], level: str) -> None:
    data = {**ADA, "authenticate_time": NOON_TEXT, "authentication_methods": methods}
    event = claims_of(EventType.REAUTHENTICATED, data)["events"][ASSURANCE_LEVEL_CHANGE]
    assert (event["namespace"], event["current_level"]) == ("amr", level)


def test_a_superseded_token_is_a_high_risk_at_the_time_of_its_use() -> None:
    event = claims_of(EventType.SUPERSEDED_TOKEN_USED, ADA)["events"][RISK_LEVEL_CHANGE]
    assert event["event_timestamp"] == NOON_SECONDS
    assert (event["principal"], event["current_level"]) == ("SESSION", "HIGH")


def test_an_operators_test_is_a_verification_without_a_state() -> None:
    claims = claims_of(EventType.TEST, {"receiver": "ssf:crm"})
    assert claims["events"] == {VERIFICATION: {}}
    assert claims["sub_id"] == {"format": "opaque", "id": str(STREAM)}


def test_a_verification_repeats_the_state() -> None:
    claims = claims_of_payload(EventType.TEST, verification_body("x", NOON))
    assert claims["events"] == {VERIFICATION: {"state": "x"}}


@pytest.mark.parametrize("reason", ["", "maintenance"])
def test_a_change_of_the_status_says_the_status(reason: str) -> None:
    body = stream_updated_body("enabled", reason, NOON)
    expected = {"status": "enabled"} | ({"reason": reason} if reason else {})
    assert claims_of_payload(EventType.TEST, body)["events"] == {STREAM_UPDATED: expected}


def test_every_token_names_issuer_audience_time_and_cause() -> None:
    claims = claims_of(EventType.TEST, {})
    assert {name: claims[name] for name in ("iss", "aud", "iat", "txn")} == {
        "iss": ISSUER,
        "aud": "crm",
        "iat": NOON_SECONDS,
        "txn": str(EVENT),
    }
    assert parse_token_id(claims["jti"]) == (EVENT, 7)


def test_every_event_of_a_stream_has_claims() -> None:
    assert set().union(*SOURCES.values()) == security_event._EVENTS.keys()


@pytest.mark.parametrize(
    "text",
    ["", ".", f"{EVENT}", f"{EVENT}.", f"{EVENT}.-1", f"{EVENT}.²", f"{EVENT}.{'9' * 19}", "x.1"],
)
def test_a_text_in_another_form_is_no_token_id(text: str) -> None:
    assert parse_token_id(text) is None


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("invalid_key", "invalid_key"),
        ("ses_" + "0" * 70, "without a usable code"),
        ("a b", "without a usable code"),
    ],
)
def test_operators_see_only_codes_that_are_codes(code: str, shown: str) -> None:
    assert security_event.shown_error(code) == shown
