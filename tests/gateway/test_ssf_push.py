"""Security events that a worker pushes to their receivers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from session_authority_gateway import ssf_documents
from session_authority_server.background.event_transmitter import EventTransmitter
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.token import new_id
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.usecases.receivers import START_DELAY
from session_authority_workers import courier, deliver
from session_authority_workers.deliver import Deliver, senders
from tests.gateway.signals import REVOKED, VERIFICATION, Signals, signals_running
from tests.support.authority import NOON
from tests.support.receiver import Received, Receiver, answer
from tests.support.transmitter import EVENT_KEY, a_transmitter
from tests.support.waiting import until

SECRET = "Bearer receivers-own-secret"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(deliver, "RENEW_SECONDS", 0.02)


@pytest.fixture
async def signals(tmp_path: Path) -> AsyncIterator[Signals]:
    async with signals_running(tmp_path) as running:
        yield running


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as listening:
        yield listening


@asynccontextmanager
async def pushing(signals: Signals, transmitter: EventTransmitter | None) -> AsyncIterator[None]:
    """Run a worker that pushes."""
    authority = signals.authority
    open_sender = senders(EVENT_KEY, transmitter, may_be_private=False)
    worker = Deliver(SqlOutbox(authority.database), authority.clock, open_sender)
    worker.start()
    try:
        yield
    finally:
        await worker.stop()


@pytest.fixture
async def worker(signals: Signals, tmp_path: Path) -> AsyncIterator[None]:
    async with pushing(signals, a_transmitter(tmp_path)):
        yield


async def pushed_stream(signals: Signals, endpoint: Receiver, **delivery: Any) -> Any:
    """Return a new stream that pushes events from now on."""
    pushed = {"method": ssf_documents.PUSH, "endpoint_url": endpoint.url, **delivery}
    stream = await signals.crm.create(delivery=pushed)
    signals.authority.pass_time(seconds=START_DELAY.total_seconds())
    return stream


async def the_first(endpoint: Receiver) -> Received:
    await until(lambda: endpoint.received)
    return endpoint.received[0]


def problem_of(signals: Signals) -> str:
    [(problem,)] = signals.authority.query("SELECT problem FROM receivers")
    return str(problem)


@pytest.mark.usefixtures("worker")
async def test_openid_ssf_transmitter_stream_verification_push(
    signals: Signals, endpoint: Receiver
) -> None:
    stream = await pushed_stream(signals, endpoint, authorization_header=SECRET)
    assert (await signals.crm.verify(stream, "state")).status_code == 204
    received = await the_first(endpoint)
    assert received.headers["authorization"] == SECRET
    assert received.headers["content-type"] == "application/secevent+jwt"
    assert received.headers["accept"] == "application/json"
    claims = await signals.crm.claims(received.body.decode())
    assert claims["events"] == {VERIFICATION: {"state": "state"}}
    assert claims["sub_id"] == {"format": "opaque", "id": stream["stream_id"]}


@pytest.mark.usefixtures("worker")
async def test_openid_ssf_transmitter_stream_verification_error_push_no_auth(
    signals: Signals, endpoint: Receiver
) -> None:
    stream = await pushed_stream(signals, endpoint)
    await signals.crm.verify(stream)
    assert "authorization" not in (await the_first(endpoint)).headers


@pytest.mark.usefixtures("worker")
async def test_a_sign_out_is_pushed(signals: Signals, endpoint: Receiver) -> None:
    await pushed_stream(signals, endpoint)
    client = signals.authority.client
    await client.sign_out((await client.create("ada")).token)
    await until(lambda: len(endpoint.received) == 2)
    claims = [await signals.crm.claims(each.body.decode()) for each in endpoint.received]
    assert [list(each["events"]) for each in claims][1] == [REVOKED]


def refusing(error: Any) -> Any:
    """Return a behaviour that refuses an event as RFC 8935 says."""
    body = json.dumps(error).encode()

    async def behave(_received: Received, writer: Any) -> None:
        writer.write(b"HTTP/1.1 400 Bad\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    return behave


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            {"err": "invalid_key", "description": "private"},
            "the receiver answered 400: invalid_key",
        ),
        ({"err": "private"}, "the receiver answered 400"),
        ({"err": ["invalid_key"]}, "the receiver answered 400"),
        (["err"], "the receiver answered 400"),
    ],
)
async def test_a_refused_event_comes_again_and_operators_see_the_code(
    signals: Signals, endpoint: Receiver, error: Any, shown: str
) -> None:
    endpoint.behave = refusing(error)
    stream = await pushed_stream(signals, endpoint)
    await signals.crm.verify(stream, "again")
    await until(lambda: problem_of(signals))
    assert problem_of(signals) == shown
    endpoint.behave = answer("202 Accepted")
    signals.authority.pass_time(seconds=10)
    await until(lambda: len(endpoint.received) == 2)
    first, second = endpoint.received
    assert first.body == second.body


@pytest.mark.usefixtures("worker")
async def test_nothing_is_pushed_after_the_key_was_revoked(
    signals: Signals, endpoint: Receiver
) -> None:
    stream = await pushed_stream(signals, endpoint)
    await signals.crm.verify(stream)
    await until(lambda: endpoint.received)
    other = await signals.receiver("other", Permission.RECEIVE)
    keys = SqlKeyStore(signals.authority.database)
    [crm] = [each for each in await keys.read_keys() if each.name == "crm"]
    await keys.revoke_key(crm.key_id, signals.authority.clock.now())
    await signals.authority.client.create("ada")
    # A later event of another stream shows that the worker still runs.
    pushed = {"method": ssf_documents.PUSH, "endpoint_url": endpoint.url}
    marked = await other.create(delivery=pushed)
    await other.verify(marked, "marker")
    await until(lambda: len(endpoint.received) >= 2)
    for received in endpoint.received[1:]:
        claims = await signals.crm.claims(received.body.decode(), "other")
        assert claims["events"] == {VERIFICATION: {"state": "marker"}}


async def test_a_worker_without_the_right_keys_says_so(
    signals: Signals, endpoint: Receiver, tmp_path: Path
) -> None:
    stream = await pushed_stream(signals, endpoint, authorization_header=SECRET)
    await signals.crm.verify(stream)
    async with pushing(signals, None):
        await until(lambda: "EVENT_SIGNING_KEYS" in problem_of(signals))
    signals.authority.pass_time(seconds=10)
    async with pushing(signals, replace(a_transmitter(tmp_path), event_key=b"x" * 32)):
        await until(lambda: "another EVENT_KEY" in problem_of(signals))
    assert not endpoint.received


def test_a_sealed_secret_is_for_one_stream_only(tmp_path: Path) -> None:
    transmitter = a_transmitter(tmp_path)
    own, other = new_id(NOON), new_id(NOON)
    sealed = transmitter.seal(own, SECRET)
    assert transmitter.unseal(own, sealed) == SECRET
    assert transmitter.unseal(other, sealed) is None
    assert transmitter.unseal(own, b"") is None
    assert transmitter.seal(own, SECRET) != sealed
    assert "eeee" not in repr(transmitter)
