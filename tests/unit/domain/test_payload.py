import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from session_authority_server.domain.event import (
    Event,
    KeyRevoked,
    SessionEnded,
    SessionEstablished,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.location import PLACE_LIMIT_CHARACTERS, Location
from session_authority_server.domain.payload import (
    PAYLOAD_LIMIT_BYTES,
    Payloads,
    Reportable,
    SupersededTokenUsed,
    UserErased,
    a_test,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.domain.sign_in import (
    METHOD_LIMIT_CHARACTERS,
    METHODS_LIMIT,
    USER_ID_LIMIT_BYTES,
)
from tests.support.authority import a_session

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
ID = UUID(int=7)
SESSION, TOKEN = a_session("ada", NOON, ip_address="192.0.2.7", user_agent="Firefox/143")
HAMBURG = Location("Hamburg", "Hamburg", "Germany", "DE")


def bodies(
    event: Reportable, policy: Policy | None = None, location: Location | None = None
) -> list[dict[str, Any]]:
    payloads = Payloads(policy or Policy(), lambda _address: location)
    return [json.loads(each.payload) for each in payloads.of(event, NOON)]


def test_a_sign_in_says_where_and_how() -> None:
    [body] = bodies(SessionEstablished(SESSION), location=HAMBURG)
    assert body == {
        "type": "session-established",
        "timestamp": "2026-01-15T12:00:00.000000Z",
        "data": {
            "user_id": "ada",
            "session_id": str(SESSION.session_id),
            "create_time": "2026-01-15T12:00:00.000000Z",
            "authenticate_time": "2026-01-15T12:00:00.000000Z",
            "expire_time": body["data"]["expire_time"],
            "authentication_methods": list(SESSION.authentication_methods),
            "device": {
                "display_name": SESSION.device.display_name,
                "browser": SESSION.device.browser,
                "os": SESSION.device.os,
                "type": SESSION.device.type.value,
            },
            "new_device": False,
            "ip_address": "192.0.2.7",
            "location": {
                "city": "Hamburg",
                "region": "Hamburg",
                "country": "Germany",
                "country_code": "DE",
            },
        },
    }


def test_a_new_device_and_an_actor_are_named() -> None:
    session = replace(SESSION, new_device=True, actor_id="support-1")
    established, new = bodies(SessionEstablished(session))
    assert (established["type"], new["type"]) == ("session-established", "new-device")
    assert established["data"] == new["data"]
    assert new["data"]["new_device"] is True
    assert new["data"]["actor_id"] == "support-1"


def test_addresses_that_are_erased_at_the_end_are_not_given_away() -> None:
    policy = Policy(erase_addresses=EraseAddresses.AT_END)
    [body] = bodies(SessionEstablished(SESSION), policy, HAMBURG)
    assert body["data"].keys().isdisjoint({"ip_address", "location"})


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (
            SessionEnded(ID, "ada", Ending(NOON, EndReason.LIMIT, InitiatingEntity.POLICY), "why"),
            {
                "user_id": "ada",
                "session_id": str(ID),
                "end_time": "2026-01-15T12:00:00.000000Z",
                "reason": "limit",
                "initiating_entity": "policy",
                "effective_time": "2026-01-15T12:00:08.100000Z",
            },
        ),
        (
            SessionsSwept("ada", Sweep(NOON, InitiatingEntity.USER), kept=ID),
            {
                "user_id": "ada",
                "sweep_time": "2026-01-15T12:00:00.000000Z",
                "initiating_entity": "user",
                "effective_time": "2026-01-15T12:00:08.100000Z",
                "kept_session_id": str(ID),
            },
        ),
        (
            SessionsSwept("", Sweep(NOON, InitiatingEntity.ADMIN)),
            {
                "everybody": True,
                "sweep_time": "2026-01-15T12:00:00.000000Z",
                "initiating_entity": "admin",
                "effective_time": "2026-01-15T12:00:08.100000Z",
            },
        ),
        (
            SessionReauthenticated(SESSION, NOON),
            {
                "user_id": "ada",
                "session_id": str(SESSION.session_id),
                "authenticate_time": "2026-01-15T12:00:00.000000Z",
                "authentication_methods": list(SESSION.authentication_methods),
            },
        ),
        (
            SupersededTokenUsed(SESSION, NOON),
            {"user_id": "ada", "session_id": str(SESSION.session_id)},
        ),
        (UserErased("ada", NOON), {"user_id": "ada"}),
    ],
)
def test_the_data_of_an_event(event: Reportable, data: dict[str, Any]) -> None:
    [body] = bodies(event)
    assert body["data"] == data
    assert body["timestamp"] == "2026-01-15T12:00:00.000000Z"


def test_events_about_api_keys_are_for_the_audit_log_alone() -> None:
    event: Event = KeyRevoked("key-1", NOON)
    assert bodies(event) == []


def test_a_test_names_its_receiver() -> None:
    in_another_zone = NOON.astimezone(timezone(timedelta(hours=2)))
    assert json.loads(a_test("crm", in_another_zone)) == {
        "type": EventType.TEST.value,
        "timestamp": "2026-01-15T12:00:00.000000Z",
        "data": {"receiver": "crm"},
    }


def test_no_text_that_looks_like_a_token_is_given_away() -> None:
    [body] = bodies(UserErased(TOKEN, NOON))
    assert body["data"] == {"user_id": "ses_…"}


def test_the_largest_body_is_within_the_limit() -> None:
    wide = "\x7f" * USER_ID_LIMIT_BYTES
    place = "\u1fff" * PLACE_LIMIT_CHARACTERS
    session = replace(
        SESSION,
        user_id=wide,
        actor_id=wide,
        new_device=True,
        authentication_methods=("\\" * METHOD_LIMIT_CHARACTERS,) * METHODS_LIMIT,
        device=replace(SESSION.device, browser="\u1fff" * 500, os="\u1fff" * 500),
    )
    payloads = Payloads(Policy(), lambda _address: Location(place, place, place, "DE"))
    for outgoing in payloads.of(SessionEstablished(session), NOON):
        assert len(outgoing.payload.encode()) < PAYLOAD_LIMIT_BYTES
