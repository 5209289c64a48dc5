"""Receivers, as operators manage them."""

from datetime import timedelta
from uuid import UUID

import pytest

from session_authority_server.domain.receiver import EventType
from tests.contract.reporting import (
    WORKER,
    Reporting,
    a_receiver,
    reporting_to,
)
from tests.contract.waiting_events import LATER, due, leased, postpone, the_receiver, waiting
from tests.support.engines import DAY, MINUTE, START, Engine


@pytest.fixture
def reporting(engine: Engine) -> Reporting:
    return reporting_to(engine)


async def test_a_receiver_is_read_as_it_was_added(reporting: Reporting) -> None:
    added = await reporting.add(types=frozenset({EventType.NEW_DEVICE, EventType.USER_ERASED}))
    assert await the_receiver(reporting) == added
    assert await reporting.receivers.wanted() == added.event_types | {EventType.TEST}


async def test_a_name_is_given_once(reporting: Reporting) -> None:
    await reporting.add()
    assert not await reporting.receivers.add_receiver(a_receiver(), START)


async def test_a_rotation_begins_the_next_generation_once(reporting: Reporting) -> None:
    receiver = await reporting.add()
    rotate = reporting.receivers.rotate_key
    assert await rotate(receiver.receiver_id, 1, LATER)
    assert not await rotate(receiver.receiver_id, 1, LATER + MINUTE), "another rotation came first"
    rotated = await the_receiver(reporting)
    assert (rotated.generation, rotated.rotate_time) == (2, LATER)


async def test_a_test_event_is_for_its_receiver_alone(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    await reporting.add("other")
    await waiting(reporting, receiver, "ann", due_time=START + MINUTE)
    sequence = await reporting.receivers.add_test(receiver.receiver_id, UUID(int=9), "{}", LATER)
    # A test does not wait behind other events.
    [delivery] = await reporting.outbox.due(receiver.receiver_id, LATER, 1)
    assert (delivery.event_type, delivery.user_id) == (EventType.TEST, None)
    await postpone(reporting, receiver, sequence)
    read = reporting.receivers.read_test
    failed = await read(sequence)
    assert failed is not None
    assert (failed.delivered, failed.attempts, failed.problem) == (False, 1, "answered 500")
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [sequence], LATER)
    delivered = await read(sequence)
    assert delivered is not None
    assert delivered.delivered
    assert len(await reporting.rows()) == 2
    assert await read(sequence + 100) is None


async def test_a_replay_delivers_again_what_was_delivered_in_its_order(
    reporting: Reporting,
) -> None:
    receiver = await leased(reporting)
    [old] = await waiting(reporting, receiver, "ann", create_time=START - DAY)
    first, second, pending = await waiting(reporting, receiver, "ann", "ann", "ann")
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [old, first, second], START)
    replay, since = reporting.receivers.replay, START - timedelta(hours=1)
    assert await replay(receiver.receiver_id, since, LATER, 0, 1) == [first]
    assert await replay(receiver.receiver_id, since, LATER, first, 10) == [second]
    assert await replay(receiver.receiver_id, since, LATER, second, 10) == []
    # The event that was pending must not overtake them.
    assert await due(reporting, receiver, START) == []
    assert await due(reporting, receiver, LATER) == [first, second]
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [first, second], LATER)
    assert await due(reporting, receiver, LATER) == [pending]
