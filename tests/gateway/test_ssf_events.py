"""The security events that a receiver gets, at once or later."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from session_authority import NewSession
from session_authority_gateway import ssf, ssf_documents
from session_authority_server.domain.event_stream import EVENTS_SUPPORTED
from session_authority_server.usecases.receivers import START_DELAY
from tests.gateway.signals import CAEP, REVOKED, Receiver, Signals, signals_running
from tests.support.authority import NOON
from tests.support.transmitter import ISSUER
from tests.support.waiting import until

STARTED = NOON + START_DELAY


@pytest.fixture
async def signals(tmp_path: Path) -> AsyncIterator[Signals]:
    async with signals_running(tmp_path) as running:
        yield running


async def a_stream(signals: Signals, receiver: Receiver | None = None, **config: Any) -> Any:
    """Return a new stream that gets the events from now on."""
    stream = await (receiver or signals.crm).create(**config)
    signals.authority.pass_time(seconds=START_DELAY.total_seconds())
    return stream


async def sign_in(signals: Signals, user_id: str = "ada", **more: Any) -> NewSession:
    return await signals.authority.client.create(user_id, **more)


def types_of(found: list[Any]) -> list[str]:
    return [name.removeprefix(CAEP) for each in found for name in each["events"]]


async def test_a_sign_in_is_a_session_established(signals: Signals) -> None:
    stream = await a_stream(signals)
    signed_in = await sign_in(signals, authentication_methods=["pwd", "otp"])
    [claims] = await signals.crm.received(stream)
    session_id = str(signed_in.session.session_id)
    assert claims["iat"] == int(STARTED.timestamp())
    assert claims["sub_id"] == {
        "format": "complex",
        "user": {"format": "iss_sub", "iss": ISSUER, "sub": "ada"},
        "session": {"format": "opaque", "id": session_id},
    }
    assert claims["events"] == {
        CAEP + "session-established": {
            "event_timestamp": int(STARTED.timestamp()),
            "initiating_entity": "user",
            "ext_id": session_id,
            "amr": ["pwd", "otp"],
        }
    }
    assert claims["jti"].startswith(claims["txn"])


async def test_openid_ssf_transmitter_stream_caep_interop(signals: Signals) -> None:
    stream = await a_stream(signals, events_requested=[REVOKED])
    client = signals.authority.client
    signed_in = await sign_in(signals)
    signals.authority.pass_time(seconds=60)
    await client.sign_out(signed_in.token)
    [claims] = await signals.crm.received(stream)
    [event] = claims["events"].values()
    assert event == {
        "event_timestamp": int((STARTED + timedelta(seconds=60)).timestamp()),
        "initiating_entity": "user",
        "reason_admin": {"en": "The user signed out."},
    }
    assert claims["sub_id"]["session"]["id"] == str(signed_in.session.session_id)


async def test_the_end_of_all_other_sessions_names_the_session_that_stays(
    signals: Signals,
) -> None:
    stream = await a_stream(signals, events_requested=[REVOKED])
    await sign_in(signals)
    kept = await sign_in(signals)
    await signals.authority.client.revoke_others(kept.token)
    [claims] = await signals.crm.received(stream)
    assert claims["sub_id"] == {
        "format": "complex",
        "user": {"format": "iss_sub", "iss": ISSUER, "sub": "ada"},
    }
    assert claims["events"][REVOKED]["kept_session_id"] == str(kept.session.session_id)


async def test_a_stream_has_only_the_types_that_it_asked_for(signals: Signals) -> None:
    unknown = "https://example.com/events/unknown"
    established = CAEP + "session-established"
    stream = await a_stream(signals, events_requested=[established, unknown])
    assert stream["events_requested"] == [established, unknown]
    assert stream["events_delivered"] == [established]
    signed_in = await sign_in(signals)
    await signals.authority.client.sign_out(signed_in.token)
    assert types_of(await signals.crm.received(stream)) == ["session-established"]


async def test_a_stream_has_all_types_unless_it_asks_for_some(signals: Signals) -> None:
    stream = await a_stream(signals)
    assert stream["events_delivered"] == stream["events_supported"] == list(EVENTS_SUPPORTED)
    signed_in = await sign_in(signals)
    renewed = await signals.authority.client.reauthenticate(
        signed_in.token, authentication_methods=["otp"]
    )
    await signals.authority.client.sign_out(renewed.token)
    assert types_of(await signals.crm.received(stream)) == [
        "session-established",
        "assurance-level-change",
        "session-revoked",
    ]


async def test_a_poll_returns_events_in_order_and_says_whether_there_are_more(
    signals: Signals,
) -> None:
    stream = await a_stream(signals)
    for user_id in ("ada", "bob", "cy"):
        await sign_in(signals, user_id)
    first = await signals.crm.poll(stream, maxEvents=2)
    assert first["moreAvailable"] is True
    users = [
        (await signals.crm.claims(each))["sub_id"]["user"]["sub"] for each in first["sets"].values()
    ]
    assert users == ["ada", "bob"]
    assert (await signals.crm.poll(stream, maxEvents=2))["sets"] == first["sets"]
    rest = await signals.crm.poll(stream, maxEvents=2, ack=list(first["sets"]))
    assert len(rest["sets"]) == 1
    assert "moreAvailable" not in rest


async def test_a_rejected_event_is_not_returned_again(signals: Signals) -> None:
    stream = await a_stream(signals)
    await sign_in(signals)
    [token_id] = (await signals.crm.poll(stream))["sets"]
    error = {"err": "invalid_key", "description": "unknown kid"}
    assert await signals.crm.poll(stream, setErrs={token_id: error}) == {"sets": {}}
    assert signals.authority.query("SELECT problem FROM receivers") == [
        ("the receiver rejected an event: invalid_key",)
    ]


async def test_a_poll_waits_for_an_event(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssf, "LOOK_SECONDS", 0.01)
    stream = await a_stream(signals)
    waiting = asyncio.create_task(signals.crm.poll(stream, returnImmediately=False))
    asked = signals.authority.query
    await until(lambda: asked("SELECT count(*) FROM receivers") == [(1,)])
    assert not waiting.done()
    await sign_in(signals)
    assert len((await waiting)["sets"]) == 1


async def test_a_poll_that_waits_ends_without_an_event(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssf, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(ssf, "LONG_POLL_SECONDS", 0.01)
    stream = await a_stream(signals)
    assert await signals.crm.poll(stream, returnImmediately=False) == {"sets": {}}


async def test_a_paused_stream_keeps_its_events(signals: Signals) -> None:
    stream = await a_stream(signals)
    await signals.crm.set_status(stream, "paused")
    await sign_in(signals)
    assert await signals.crm.poll(stream) == {"sets": {}}
    await signals.crm.set_status(stream, "enabled")
    assert types_of(await signals.crm.received(stream)) == ["session-established"]


async def test_a_disabled_stream_drops_its_events(signals: Signals) -> None:
    stream = await a_stream(signals)
    await sign_in(signals, "ada")
    await signals.crm.set_status(stream, "disabled")
    await sign_in(signals, "bob")
    assert await signals.crm.poll(stream) == {"sets": {}}
    await signals.crm.set_status(stream, "enabled")
    await sign_in(signals, "cy")
    [claims] = await signals.crm.received(stream)
    assert claims["sub_id"]["user"]["sub"] == "cy"


async def test_an_erased_user_has_no_events_but_the_end_of_the_sessions(signals: Signals) -> None:
    stream = await a_stream(signals)
    await sign_in(signals)
    async with signals.authority.channel() as channel:
        from session_authority.v1 import session_admin_service_pb2 as pb
        from session_authority.v1 import session_admin_service_pb2_grpc as admin

        await admin.SessionAdminServiceStub(channel).EraseUser(pb.EraseUserRequest(user_id="ada"))
    assert types_of(await signals.crm.received(stream)) == ["session-revoked"]


async def test_a_verification_comes_again_only_after_the_shortest_interval(
    signals: Signals,
) -> None:
    stream = await signals.crm.create()
    assert (await signals.crm.verify(stream)).status_code == 204
    again = await signals.crm.verify(stream)
    assert (again.status_code, again.headers["retry-after"]) == (429, "5")
    signals.authority.pass_time(seconds=5)
    assert (await signals.crm.verify(stream)).status_code == 204


async def test_a_new_key_of_the_same_name_takes_over_the_stream(signals: Signals) -> None:
    stream = await a_stream(signals)
    successor = await signals.receiver("crm")
    await sign_in(signals)
    assert types_of(await successor.received(stream)) == ["session-established"]


async def test_each_receiver_gets_its_own_tokens(signals: Signals) -> None:
    other = await signals.receiver("billing")
    of_crm, of_billing = await a_stream(signals), await a_stream(signals, other)
    await sign_in(signals)
    [mine], [theirs] = await signals.crm.received(of_crm), await other.received(of_billing)
    assert (mine["aud"], theirs["aud"]) == ("crm", "billing")
    assert mine["txn"] == theirs["txn"]
    assert mine["jti"] != theirs["jti"]
    assert ssf_documents.POLL_PATH in of_crm["delivery"]["endpoint_url"]
