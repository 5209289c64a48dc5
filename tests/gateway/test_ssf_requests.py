"""The requests of receivers, good, bad and hostile."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from starlette.applications import Starlette

from session_authority_gateway import ssf, ssf_documents
from session_authority_gateway.ssf import SharedSignals
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.event_stream import (
    AUTHORIZATION_LIMIT_CHARACTERS,
    DESCRIPTION_LIMIT_CHARACTERS,
    EVENT_URI_LIMIT_CHARACTERS,
    EVENTS_REQUESTED_LIMIT,
    STATE_LIMIT_CHARACTERS,
)
from session_authority_server.rpc.methods import REQUEST_LIMIT_BYTES
from session_authority_server.usecases import event_streams
from session_authority_server.usecases.event_streams import ACKNOWLEDGED_LIMIT
from tests.gateway.signals import REVOKED, Receiver, Signals, signals_running
from tests.support.transmitter import ISSUER

STREAM, STATUS = ssf_documents.STREAM_PATH, ssf_documents.STATUS_PATH
VERIFICATION, POLL = ssf_documents.VERIFICATION_PATH, ssf_documents.POLL_PATH
URL = "https://crm.example.com/events"
SECRET = "Bearer receivers-own-secret"
PUSHED: dict[str, Any] = {"method": ssf_documents.PUSH, "endpoint_url": URL}


@pytest.fixture
async def signals(tmp_path: Path) -> AsyncIterator[Signals]:
    async with signals_running(tmp_path) as running:
        yield running


@pytest.fixture
def crm(signals: Signals) -> Receiver:
    return signals.crm


def sealed_of(signals: Signals) -> bytes | None:
    [(sealed,)] = signals.authority.query("SELECT sealed_authorization FROM receivers")
    found: bytes | None = sealed
    return found


async def test_a_stream_without_a_delivery_is_polled(crm: Receiver) -> None:
    stream = await crm.create()
    assert stream["delivery"] == {
        "method": ssf_documents.POLL,
        "endpoint_url": f"{ISSUER}{POLL}{stream['stream_id']}",
    }


async def test_the_secret_of_a_push_is_neither_shown_nor_stored_in_clear(
    signals: Signals, crm: Receiver
) -> None:
    stream = await crm.create(delivery={**PUSHED, "authorization_header": SECRET})
    assert stream["delivery"] == PUSHED
    sealed = sealed_of(signals)
    assert sealed is not None
    assert SECRET.encode() not in sealed
    assert SECRET not in str(signals.authority.query("SELECT * FROM receivers"))


async def test_an_update_keeps_the_secret_unless_it_names_another_address_or_secret(
    signals: Signals, crm: Receiver
) -> None:
    stream = await crm.create(delivery={**PUSHED, "authorization_header": SECRET})
    first = sealed_of(signals)
    assert (await crm.ask("PUT", STREAM, stream)).status_code == 200
    assert sealed_of(signals) == first

    stream["delivery"]["authorization_header"] = ""
    assert (await crm.ask("PATCH", STREAM, stream)).status_code == 200
    assert sealed_of(signals) is None

    stream["delivery"]["authorization_header"] = SECRET
    await crm.ask("PATCH", STREAM, stream)
    assert sealed_of(signals) is not None
    moved = {**stream, "delivery": {**PUSHED, "endpoint_url": URL + "/elsewhere"}}
    assert (await crm.ask("PATCH", STREAM, moved)).status_code == 200
    assert sealed_of(signals) is None


async def test_a_receiver_can_change_from_push_to_poll(crm: Receiver) -> None:
    stream = await crm.create(delivery=PUSHED)
    address = POLL + stream["stream_id"]
    assert (await crm.ask("POST", address, {})).status_code == 404
    poll = {"method": ssf_documents.POLL}
    changed = await crm.ask("PATCH", STREAM, {"stream_id": stream["stream_id"], "delivery": poll})
    assert changed.json()["delivery"]["endpoint_url"] == ISSUER + address
    assert await crm.poll(changed.json()) == {"sets": {}}


async def test_a_patch_changes_only_what_it_names_and_a_put_everything(crm: Receiver) -> None:
    stream = await crm.create(delivery=PUSHED, events_requested=[REVOKED], description="CRM")
    named = {"stream_id": stream["stream_id"]}
    assert (await crm.ask("PATCH", STREAM, named)).json() == stream
    replaced = (await crm.ask("PUT", STREAM, named)).json()
    assert replaced["delivery"]["method"] == ssf_documents.POLL
    assert not replaced.keys() & {"events_requested", "description"}


FIXED: list[Any] = [
    {"iss": "https://other.example.com"},
    {"aud": "other"},
    {"events_delivered": []},
    {"events_supported": [REVOKED]},
    {"min_verification_interval": 0},
    {"delivery": {"method": ssf_documents.POLL, "endpoint_url": "https://other.example.com"}},
]


async def test_what_the_transmitter_supplies_cannot_be_changed(crm: Receiver) -> None:
    stream = await crm.create()
    for fixed in FIXED:
        answer = await crm.ask("PATCH", STREAM, {**stream, **fixed})
        assert answer.status_code == 400, fixed
        assert "supplied by the transmitter" in answer.json()["description"]


async def test_the_audience_may_come_back_as_a_list(crm: Receiver) -> None:
    stream = await crm.create()
    assert (await crm.ask("PUT", STREAM, {**stream, "aud": [stream["aud"]]})).status_code == 200


async def test_a_long_description_is_cut(crm: Receiver) -> None:
    stream = await crm.create(description="d" * 1_000 + "\n")
    assert stream["description"] == "d" * DESCRIPTION_LIMIT_CHARACTERS


UNUSABLE_CONFIGURATIONS: list[Any] = [
    ({"delivery": "push"}, "delivery"),
    ({"delivery": {"method": "smtp"}}, "delivery.method"),
    ({"delivery": {"method": ssf_documents.PUSH}}, "delivery.endpoint_url"),
    ({"delivery": {**PUSHED, "endpoint_url": 7}}, "delivery.endpoint_url"),
    ({"delivery": {**PUSHED, "endpoint_url": "http://crm.example.com/"}}, "give https"),
    ({"delivery": {**PUSHED, "endpoint_url": "file:///etc/passwd"}}, "delivery.endpoint_url"),
    ({"delivery": {**PUSHED, "endpoint_url": "https://a:b@crm.example.com"}}, "password"),
    ({"delivery": {**PUSHED, "endpoint_url": "https://crm.example.com/\ud800"}}, "Unicode"),
    ({"delivery": {**PUSHED, "authorization_header": 7}}, "delivery.authorization_header"),
    ({"delivery": {**PUSHED, "authorization_header": "a\r\nhost: b"}}, "visible ASCII"),
    (
        {
            "delivery": {
                **PUSHED,
                "authorization_header": "a" * (AUTHORIZATION_LIMIT_CHARACTERS + 1),
            }
        },
        "visible ASCII",
    ),
    ({"events_requested": REVOKED}, "events_requested"),
    ({"events_requested": [7]}, "events_requested"),
    ({"events_requested": ["two words"]}, "events_requested"),
    ({"events_requested": ["u" * (EVENT_URI_LIMIT_CHARACTERS + 1)]}, "events_requested"),
    ({"events_requested": ["u"] * (EVENTS_REQUESTED_LIMIT + 1)}, "events_requested"),
    ({"description": 7}, "description"),
]


async def test_an_unusable_configuration_is_refused_with_the_reason(crm: Receiver) -> None:
    for config, named in UNUSABLE_CONFIGURATIONS:
        answer = await crm.ask("POST", STREAM, json.dumps(config).encode())
        assert answer.status_code == 400, config
        assert answer.json()["err"] == "invalid_request"
        assert named in answer.json()["description"]


GARBAGE: list[Any] = [b"[]", b"7", b"null", b'{"a":1,"a":2}', b"\xff", b"[" * 50_000, b'{"a":NaN}']


async def test_garbage_is_refused_everywhere(crm: Receiver) -> None:
    stream = await crm.create()
    targets = [(STREAM, verb) for verb in ("POST", "PATCH", "PUT")]
    targets += [(STATUS, "POST"), (VERIFICATION, "POST"), (POLL + stream["stream_id"], "POST")]
    for body in GARBAGE:
        for path, verb in targets:
            answer = await crm.ask(verb, path, body)
            assert answer.status_code == 400, (path, verb, body[:20])
    assert (await crm.ask("POST", STREAM, b"")).status_code == 400


async def test_a_large_body_is_refused(crm: Receiver) -> None:
    answer = await crm.ask("POST", STREAM, b" " * (REQUEST_LIMIT_BYTES + 1))
    assert answer.status_code == 413


async def test_a_body_that_stays_away_is_refused(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssf, "BODY_SECONDS", 0.01)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"

        await asyncio.Event().wait()

    answer = await signals.crm.ask("POST", STREAM, endless())
    assert answer.status_code == 408


UNUSABLE_POLLS: list[Any] = [
    ({"maxEvents": -1}, "maxEvents"),
    ({"maxEvents": True}, "maxEvents"),
    ({"maxEvents": "10"}, "maxEvents"),
    ({"returnImmediately": 1}, "returnImmediately"),
    ({"ack": "x"}, "ack"),
    ({"ack": [1]}, "ack"),
    ({"ack": ["x"] * (ACKNOWLEDGED_LIMIT + 1)}, "acknowledged"),
    ({"setErrs": []}, "setErrs"),
    ({"setErrs": {"x": "invalid_key"}}, "setErrs"),
    ({"setErrs": {"x": {}}}, "setErrs"),
]


async def test_an_unusable_poll_is_refused_with_the_reason(crm: Receiver) -> None:
    stream = await crm.create()
    for poll, named in UNUSABLE_POLLS:
        answer = await crm.ask("POST", POLL + stream["stream_id"], poll)
        assert answer.status_code == 400, poll
        assert named in answer.json()["description"]


async def test_an_empty_poll_is_a_poll(crm: Receiver) -> None:
    stream = await crm.create()
    await crm.verify(stream)
    answer = await crm.ask("POST", POLL + stream["stream_id"], b"")
    assert len(answer.json()["sets"]) == 1


FOREIGN_IDS: list[Any] = ["", "x", "00000000-0000-0000-0000-000000000000.1", "9" * 60, "é"]


async def test_an_acknowledgement_of_something_else_acknowledges_nothing(crm: Receiver) -> None:
    stream = await crm.create()
    await crm.verify(stream)
    for foreign in FOREIGN_IDS:
        assert len((await crm.poll(stream, ack=[foreign]))["sets"]) == 1, foreign


UNUSABLE_STATUSES: list[Any] = [
    ({"status": "stopped"}, "status"),
    ({"status": None}, "status"),
    ({"status": "paused", "reason": "r" * 257}, "reason"),
    ({"status": "paused", "stream_id": None}, "stream_id"),
]


async def test_an_unusable_status_is_refused_with_the_reason(crm: Receiver) -> None:
    stream = await crm.create()
    for given, named in UNUSABLE_STATUSES:
        answer = await crm.ask("POST", STATUS, {"stream_id": stream["stream_id"], **given})
        assert answer.status_code == 400, given
        assert named in answer.json()["description"]


async def test_a_long_state_is_refused(crm: Receiver) -> None:
    stream = await crm.create()
    answer = await crm.verify(stream, "s" * (STATE_LIMIT_CHARACTERS + 1))
    assert answer.status_code == 400


@pytest.mark.parametrize(("path", "verb"), [(STREAM, "DELETE"), (STATUS, "GET")])
async def test_a_request_must_name_its_stream(crm: Receiver, path: str, verb: str) -> None:
    assert (await crm.ask(verb, path)).status_code == 400


async def test_another_receiver_has_no_access_to_a_stream(signals: Signals) -> None:
    stream = await signals.crm.create()
    await signals.crm.verify(stream, "secret")
    [token_id] = (await signals.crm.poll(stream))["sets"]
    thief = await signals.receiver("thief")
    own = await thief.create()
    named = {"stream_id": stream["stream_id"]}
    address = f"?stream_id={stream['stream_id']}"
    for verb, path, body in [
        ("GET", STREAM + address, None),
        ("PATCH", STREAM, named),
        ("PUT", STREAM, named),
        ("DELETE", STREAM + address, None),
        ("GET", STATUS + address, None),
        ("POST", STATUS, {**named, "status": "disabled"}),
        ("POST", VERIFICATION, named),
        ("POST", POLL + stream["stream_id"], {"ack": [token_id]}),
    ]:
        unknown = {"stream_id": "unknown"} | ({"status": "disabled"} if path == STATUS else {})
        answer = await thief.ask(verb, path, body)
        # As for a stream that does not exist.
        absent = await thief.ask(
            verb, path.replace(stream["stream_id"], "unknown"), body and unknown
        )
        assert (answer.status_code, answer.json()) == (404, absent.json()), (verb, path)
    # An acknowledgement on the thief's own stream does not reach the other one.
    await thief.poll(own, ack=[token_id])
    assert (await thief.ask("GET", STREAM)).json() == [own]
    assert token_id in (await signals.crm.poll(stream))["sets"]


async def test_a_key_needs_the_permission(signals: Signals) -> None:
    others = frozenset(Permission) - {Permission.RECEIVE}
    answer = await (await signals.receiver("app", *others)).ask("POST", STREAM, {})
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


STRANGE_KEYS: list[Any] = [
    {"authorization": "Bearer " + "k" * 1_000},
    {"authorization": "Bearer k\x7fey"},
    {"authorization": "Basic YTpi"},
]


async def test_a_strange_key_is_refused(signals: Signals) -> None:
    for headers in STRANGE_KEYS:
        answer = await Receiver(signals.application, "").ask("GET", STREAM, headers=headers)
        assert answer.status_code == 401, headers


async def test_a_key_in_the_address_is_no_key(signals: Signals) -> None:
    stranger = Receiver(signals.application, "")
    answer = await stranger.ask("GET", f"{STREAM}?access_token={signals.crm.key}")
    assert answer.status_code == 401


async def test_a_server_has_a_limited_number_of_receivers(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "RECEIVERS_LIMIT", 1)
    await signals.crm.create()
    other = await signals.receiver("billing")
    answer = await other.ask("POST", STREAM, {})
    assert (answer.status_code, answer.json()["err"]) == (403, "access_denied")


async def test_only_the_configuration_and_the_keys_may_be_kept_by_others(crm: Receiver) -> None:
    stream = await crm.create()
    for path in (ssf_documents.CONFIGURATION_PATH, ssf_documents.JWKS_PATH):
        assert (await crm.ask("GET", path)).headers["cache-control"] == "public, max-age=300"
    address = f"{STREAM}?stream_id={stream['stream_id']}"
    assert (await crm.ask("GET", address)).headers["cache-control"] == "no-store"
    head = await crm.ask("HEAD", ssf_documents.JWKS_PATH)
    assert head.status_code == 200


async def test_without_keys_there_are_no_security_events(tmp_path: Path) -> None:
    async with signals_running(tmp_path, on=False) as signals:
        crm = signals.crm
        for verb, path in [
            ("GET", ssf_documents.CONFIGURATION_PATH),
            ("GET", ssf_documents.JWKS_PATH),
            ("GET", STREAM),
            ("POST", STREAM),
            ("DELETE", STREAM + "?stream_id=x"),
            ("POST", POLL + "x"),
        ]:
            body: dict[str, Any] | None = {} if verb == "POST" else None
            assert (await crm.ask(verb, path, body)).status_code == 404, path
        named = {"stream_id": "x", "status": "paused"}
        assert (await crm.ask("POST", STATUS, named)).status_code == 404
        assert (await crm.ask("POST", VERIFICATION, named)).status_code == 404


async def test_an_outage_is_no_refusal() -> None:
    # Nothing listens on this port.
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        shared = SharedSignals(channel, (), lambda: True)
        answer = await Receiver(Starlette(routes=shared.routes()), "key").ask("GET", STREAM)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["err"] == "temporarily_unavailable"


async def test_new_and_removed_streams_are_in_the_audit_log(signals: Signals) -> None:
    stream = await signals.crm.create()
    await signals.crm.ask("DELETE", f"{STREAM}?stream_id={stream['stream_id']}")
    changes = [each for each in signals.authority.audited() if each["event"] == "receiver-changed"]
    assert [each["change"] for each in changes] == ["added", "removed"]
    assert {(each["receiver"], each["initiating_entity"]) for each in changes} == {
        ("ssf:crm", "system")
    }
