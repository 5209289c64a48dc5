import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from session_authority_server.domain.errors import InvalidRequest, StoreUnavailable
from session_authority_server.domain.event import ReceiverChange, ReceiverChanged
from session_authority_server.domain.event_stream import EventStream
from session_authority_server.domain.receiver import WANTABLE, EventType, ReceiverState
from session_authority_server.domain.token import new_id
from session_authority_server.store.event_streams import SqlEventStreamStore
from session_authority_server.usecases import receivers as module
from session_authority_server.usecases.receivers import (
    ManagedByItself,
    NameTaken,
    NotActive,
    ReceiverNotFound,
    Receivers,
    RotatedMeanwhile,
    TooManyReceivers,
)
from tests.contract.reporting import WORKER, Reporting, reporting_to, sequences
from tests.support.engines import MINUTE, START, opened
from tests.support.usecases import Recorder

URL = "https://crm.example.com/secret-path"


class Operating:
    """An operator's commands over a SQLite file."""

    def __init__(self, reporting: Reporting) -> None:
        self.reporting = reporting
        self.audit = Recorder()
        self.receivers = Receivers(
            reporting.receivers, reporting.outbox, reporting.clock, self.audit
        )

    async def add(self, name: str = "crm") -> UUID:
        receiver, _ = await self.receivers.add(name, URL, WANTABLE)
        return receiver.receiver_id

    async def deliver(self, receiver_id: UUID, now: timedelta = timedelta(0)) -> list[int]:
        """Deliver everything that is due, as a worker does. Return the sequences."""
        outbox = self.reporting.outbox
        await outbox.lease(WORKER, START, 60)
        due = sequences(await outbox.due(receiver_id, START + now, 10))
        await outbox.settle(receiver_id, WORKER, due, START)
        return due

    @property
    def changes(self) -> list[ReceiverChange]:
        found = [each for each in self.audit.events if isinstance(each, ReceiverChanged)]
        assert {each.name for each in found} == {"crm"}
        return [each.change for each in found]


@pytest.fixture
async def operating(tmp_path: Path) -> AsyncIterator[Operating]:
    async with opened("sqlite", tmp_path) as engine:
        yield Operating(reporting_to(engine))


async def test_a_new_receiver_gets_events_once_every_process_knows_it(
    operating: Operating,
) -> None:
    receiver, start = await operating.receivers.add("crm", URL, {EventType.NEW_DEVICE})
    assert start == START + timedelta(seconds=10)
    [listed] = await operating.receivers.list()
    assert listed.receiver == receiver
    assert (listed.backlog.pending, listed.backlog.oldest) == (0, None)
    assert operating.changes == [ReceiverChange.ADDED]


@pytest.mark.parametrize(
    ("name", "url", "fields"),
    [
        ("", URL, ["name"]),
        ("a" * 65, URL, ["name"]),
        ("-crm", URL, ["name"]),
        ("crm", "http://crm.example.com", ["url"]),
        ("a b", "ftp://", ["name", "url"]),
    ],
)
async def test_a_bad_name_or_url_is_refused_with_advice(
    operating: Operating, name: str, url: str, fields: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await operating.receivers.add(name, url, WANTABLE)
    assert [each.field for each in refused.value.violations] == fields
    assert await operating.receivers.list() == []


async def test_names_and_the_number_of_receivers_are_bounded(
    operating: Operating, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operating.add()
    with pytest.raises(NameTaken, match="there is a receiver crm already"):
        await operating.add()
    monkeypatch.setattr(module, "RECEIVERS_LIMIT", 1)
    with pytest.raises(TooManyReceivers):
        await operating.add("other")


async def test_a_paused_receiver_is_resumed_with_its_events(operating: Operating) -> None:
    receiver_id = await operating.add()
    sequence = await operating.receivers.send_test("crm")
    await operating.receivers.pause("crm")
    [listed] = await operating.receivers.list()
    assert (listed.receiver.state, listed.backlog.pending) == (ReceiverState.PAUSED, 1)
    await operating.receivers.resume("crm")
    assert await operating.deliver(receiver_id) == [sequence]
    outcome = await operating.receivers.outcome_of_test(sequence)
    assert outcome is not None
    assert outcome.delivered
    assert operating.changes == [
        ReceiverChange.ADDED,
        ReceiverChange.PAUSED,
        ReceiverChange.RESUMED,
    ]


async def test_a_failed_event_is_due_at_once_after_a_resumption(operating: Operating) -> None:
    receiver_id = await operating.add()
    outbox = operating.reporting.outbox
    await outbox.lease(WORKER, START, 60)
    sequence = await operating.receivers.send_test("crm")
    await outbox.postpone(receiver_id, WORKER, sequence, START + 60 * MINUTE, "answered 500", START)
    await outbox.park(receiver_id, WORKER, "answered 500", START)
    assert await operating.deliver(receiver_id) == []
    await operating.receivers.resume("crm")
    assert await operating.deliver(receiver_id) == [sequence]


@pytest.mark.parametrize("state", [ReceiverState.ACTIVE, ReceiverState.PARKED])
async def test_a_replay_repeats_delivered_events_and_restores_the_state(
    operating: Operating, state: ReceiverState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_LIMIT", 1)
    receiver_id = await operating.add()
    sent = [await operating.receivers.send_test("crm") for _ in range(3)]
    assert await operating.deliver(receiver_id) == sent
    assert await operating.deliver(receiver_id) == []
    await operating.reporting.receivers.set_state(receiver_id, state)
    assert await operating.receivers.replay("crm", START - MINUTE) == 3
    assert await operating.deliver(receiver_id) == sent
    [listed] = await operating.receivers.list()
    assert listed.receiver.state is state
    assert await operating.receivers.replay("crm", START + MINUTE) == 0


async def test_a_replay_that_fails_does_not_leave_the_receiver_paused(
    operating: Operating, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operating.add()

    async def fail(*_: object) -> list[int]:
        raise StoreUnavailable("writing")

    monkeypatch.setattr(operating.reporting.receivers, "replay", fail)
    with pytest.raises(StoreUnavailable, match="writing"):
        await operating.receivers.replay("crm", START - MINUTE)
    [listed] = await operating.receivers.list()
    assert listed.receiver.state is ReceiverState.ACTIVE


@pytest.mark.parametrize("state", [ReceiverState.PAUSED, ReceiverState.PARKED])
async def test_a_receiver_that_gets_no_events_gets_no_test(
    operating: Operating, state: ReceiverState
) -> None:
    receiver_id = await operating.add()
    await operating.reporting.receivers.set_state(receiver_id, state)
    with pytest.raises(NotActive, match=f"crm is {state.value}; run"):
        await operating.receivers.send_test("crm")
    assert await operating.reporting.rows() == []


async def test_a_rotation_begins_a_new_generation(
    operating: Operating, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operating.add()
    rotated = await operating.receivers.rotate("crm")
    assert (rotated.generation, rotated.rotate_time) == (2, START)

    async def lost_the_race(*_: object) -> bool:
        return False

    monkeypatch.setattr(operating.reporting.receivers, "rotate_key", lost_the_race)
    with pytest.raises(RotatedMeanwhile):
        await operating.receivers.rotate("crm")


async def test_a_removed_receiver_is_unknown(
    operating: Operating, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operating.add()
    await operating.receivers.remove("crm")
    assert await operating.receivers.list() == []
    receivers = operating.receivers
    for command in (receivers.pause, receivers.resume, receivers.remove, receivers.rotate):
        with pytest.raises(ReceiverNotFound, match="there is no receiver crm"):
            await command("crm")


@pytest.mark.parametrize("command", ["pause", "remove"])
async def test_a_receiver_that_is_removed_meanwhile_is_unknown(
    operating: Operating, command: str
) -> None:
    receiver_id = await operating.add()
    store = operating.reporting.receivers
    read = store.read_receivers

    async def read_then_removed() -> object:
        found = await read()
        await store.remove_receiver(receiver_id, START)
        return found

    store.read_receivers = read_then_removed  # type: ignore[method-assign, assignment]
    with pytest.raises(ReceiverNotFound):
        await getattr(operating.receivers, command)("crm")


async def a_stream(operating: Operating, state: ReceiverState) -> UUID:
    """Add the stream of a receiver that polls, in a state."""
    now = operating.reporting.clock.now()
    stream = EventStream(new_id(now), "crm", now)
    store = SqlEventStreamStore(operating.reporting.engine.database)
    assert await store.add_stream(stream, now, 10)
    await operating.reporting.receivers.set_state(stream.stream_id, state)
    return stream.stream_id


async def test_a_stream_is_managed_by_its_receiver(operating: Operating) -> None:
    await a_stream(operating, ReceiverState.PAUSED)
    for change in (
        operating.receivers.pause,
        operating.receivers.resume,
        operating.receivers.rotate,
    ):
        with pytest.raises(ManagedByItself, match="revoke the API keys"):
            await change("ssf:crm")
    assert await operating.reporting.rows() == []
    await operating.receivers.remove("ssf:crm")
    assert await operating.receivers.list() == []


async def test_a_receiver_learns_that_its_parked_stream_was_resumed(operating: Operating) -> None:
    stream_id = await a_stream(operating, ReceiverState.PARKED)
    await operating.receivers.resume("ssf:crm")
    [listed] = await operating.receivers.list()
    assert listed.receiver.state is ReceiverState.ACTIVE
    [event] = await operating.reporting.outbox.due(stream_id, START, 10)
    assert json.loads(event.payload)["data"] == {
        "status": "enabled",
        "reason": "Resumed by an operator",
    }
