import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest

from session_authority_server.audit.lines import DROPPED, as_line, summary_line
from session_authority_server.domain.event import (
    CredentialFault,
    CredentialRejected,
    Event,
    FenceChoice,
    FenceResolved,
    KeyCreated,
    KeyExpirySet,
    KeyRevoked,
    ReceiverChange,
    ReceiverChanged,
    SessionEnded,
    SessionEstablished,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from tests.support.authority import a_session

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
SECONDS = 1768478400.0
CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
ID = UUID(int=7)
SESSION, TOKEN = a_session("ada", NOON, created_by="key-1", user_agent="Firefox/143")
ENDED = SessionEnded(ID, "ada", Ending(NOON, EndReason.LIMIT, InitiatingEntity.POLICY))
EVENTS: list[Event] = [
    SessionEstablished(SESSION),
    ENDED,
    SessionsSwept("ada", Sweep(NOON, InitiatingEntity.USER), kept=ID),
    SessionReauthenticated(SESSION, NOON + timedelta(microseconds=1)),
    CredentialRejected(ID, "ada", CredentialFault.SUPERSEDED, NOON),
    KeyCreated("key-1", NOON),
    KeyRevoked("key-1", NOON),
    KeyExpirySet("key-1", NOON + timedelta(hours=1), NOON),
    FenceResolved(FenceChoice.REPLAY, 3, NOON),
    ReceiverChanged("crm", ReceiverChange.ADDED, NOON),
]


def line_of(event: Event, *, addresses: bool = False) -> dict[str, Any]:
    line = as_line(event, addresses=addresses)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_every_event_has_a_line() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    names = [line_of(event)["event"] for event in EVENTS]
    assert names == [
        "session-established",
        "session-ended",
        "sessions-swept",
        "session-reauthenticated",
        "credential-rejected",
        "api-key-created",
        "api-key-revoked",
        "api-key-expiry-set",
        "fence-resolved",
        "receiver-changed",
    ]


def test_the_line_of_a_sign_in() -> None:
    assert line_of(EVENTS[0]) == {
        "event_timestamp": SECONDS,
        "event": "session-established",
        "event_type": CAEP + "session-established",
        "session_id": str(SESSION.session_id),
        "user_id": "ada",
        "amr": ["pwd"],
        "initiating_entity": "user",
        "key_id": "key-1",
    }


def test_a_sign_in_as_another_user_names_the_actor() -> None:
    session, _ = a_session("ada", NOON, actor_id="support-7")
    assert line_of(SessionEstablished(session))["actor_id"] == "support-7"


def test_an_ending_by_an_operator_has_the_given_reason() -> None:
    ending = Ending(NOON, EndReason.REVOKED, InitiatingEntity.ADMIN)
    line = line_of(SessionEnded(ID, "ada", ending, f"stolen {TOKEN}"))
    assert line["reason_admin"]["en"].startswith("stolen ")
    assert TOKEN[4:] not in line["reason_admin"]["en"]


def test_a_sign_in_has_its_address_if_configured() -> None:
    line = line_of(EVENTS[0], addresses=True)
    assert (line["ips"], line["user_agent"]) == (["203.0.113.7"], "Firefox/143")
    for event in EVENTS:
        assert b"203.0.113" not in as_line(event, addresses=False)
        assert b"Firefox" not in as_line(event, addresses=False)


@pytest.mark.parametrize("reason", list(EndReason))
def test_the_line_of_an_ending(reason: EndReason) -> None:
    ending = Ending(NOON, reason, InitiatingEntity.POLICY)
    line = line_of(SessionEnded(ID, "ada", ending))
    assert line.pop("reason_admin")["en"].endswith(".")
    assert line == {
        "event_timestamp": SECONDS,
        "event": "session-ended",
        "event_type": CAEP + "session-revoked",
        "session_id": str(ID),
        "user_id": "ada",
        "initiating_entity": "policy",
        "reason": reason.value,
    }


def test_the_lines_of_a_user_sweep_and_a_global_sweep() -> None:
    one = line_of(EVENTS[2])
    assert (one["user_id"], one["kept_session_id"]) == ("ada", str(ID))
    assert (one["event_type"], one["initiating_entity"]) == (CAEP + "session-revoked", "user")
    everybody = line_of(SessionsSwept("", Sweep(NOON, InitiatingEntity.ADMIN), why="a leak"))
    assert everybody["everybody"]
    assert everybody["reason_admin"] == {"en": "a leak"}
    assert not {"user_id", "kept_session_id"} & set(everybody)


def test_the_lines_of_re_authentications_and_key_changes() -> None:
    for event, kind, change in (
        (EVENTS[3], "session-token", "update"),
        (EVENTS[5], "api-key", "create"),
        (EVENTS[6], "api-key", "revoke"),
        (EVENTS[7], "api-key", "update"),
    ):
        line = line_of(event)
        assert line["event_type"] == CAEP + "credential-change"
        assert (line["credential_type"], line["change_type"]) == (kind, change)
    assert line_of(EVENTS[3])["event_timestamp"] == SECONDS + 1e-6


def test_no_field_can_carry_a_token_or_a_hash_into_a_line() -> None:
    session, token = a_session(TOKEN, NOON, user_agent=f"Mozilla ({TOKEN})")
    for event in [*EVENTS, SessionEstablished(session), SessionEnded(ID, token, ENDED.ending)]:
        line = as_line(event, addresses=True)
        assert TOKEN[4:].encode() not in line
        assert token[4:].encode() not in line
        assert session.secret_hash.hex().encode() not in line


def test_a_user_id_with_line_breaks_stays_on_one_line() -> None:
    line = as_line(
        SessionEnded(ID, '"},\n{"\u2028\u202e', ENDED.ending),
        addresses=False,
    )
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["user_id"] == '"},\n{"\u2028\u202e'


def test_the_documentation_shows_a_line_of_each_kind_as_written() -> None:
    lines = [as_line(event, addresses=False) for event in EVENTS]
    lines += [summary_line(why, 2, NOON, NOON) for why in ("forged", DROPPED)]
    shown = Path("docs/operate/audit.md").read_text().partition("```json\n")[2].partition("```")[0]
    written = {each["event"]: list(each) for each in map(json.loads, lines)}
    assert {each["event"]: list(each) for each in map(json.loads, shown.splitlines())} == written
