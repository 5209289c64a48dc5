"""The work of a delivering worker on the events that wait for receivers."""

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from session_authority_server.domain.receiver import EventType, ReceiverState
from session_authority_server.ports.outbox import Backlog
from tests.contract.reporting import (
    OTHER_WORKER,
    WORKER,
    Reporting,
    reporting_to,
    sequences,
)
from tests.contract.test_statement_counts import statements
from tests.contract.waiting_events import LATER, due, leased, postpone, the_receiver, waiting
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, opened


@pytest.fixture
def reporting(engine: Engine) -> Reporting:
    return reporting_to(engine)


async def test_one_worker_at_a_time_holds_the_lease_of_a_receiver(reporting: Reporting) -> None:
    await reporting.add()
    lease = reporting.outbox.lease
    assert len(await lease(WORKER, START, 60)) == 1
    assert len(await lease(OTHER_WORKER, START, 60)) == 0
    assert len(await lease(WORKER, START + 59 * SECOND, 60)) == 1, "renewed"
    assert len(await lease(OTHER_WORKER, START + 61 * SECOND, 60)) == 0
    assert len(await lease(OTHER_WORKER, START + 119 * SECOND, 60)) == 1, "lapsed"
    assert len(await lease(WORKER, START + 119 * SECOND, 60)) == 0


async def test_a_worker_that_stops_gives_its_leases_back(reporting: Reporting) -> None:
    await leased(reporting)
    await reporting.outbox.release(OTHER_WORKER)
    assert not await reporting.outbox.lease(OTHER_WORKER, START, 60)
    await reporting.outbox.release(WORKER)
    assert await reporting.outbox.lease(OTHER_WORKER, START, 60)


@pytest.mark.parametrize("state", list(ReceiverState)[1:])
async def test_only_active_receivers_are_leased(reporting: Reporting, state: ReceiverState) -> None:
    receiver = await reporting.add()
    await reporting.receivers.set_state(receiver.receiver_id, state)
    assert not await reporting.outbox.lease(WORKER, START, 60)


async def test_without_the_lease_nothing_is_settled_postponed_or_parked(
    reporting: Reporting,
) -> None:
    receiver = await leased(reporting)
    [sequence] = await waiting(reporting, receiver, "ann")
    await reporting.outbox.settle(receiver.receiver_id, OTHER_WORKER, [sequence], START)
    await postpone(reporting, receiver, sequence, worker=OTHER_WORKER)
    assert not await reporting.outbox.park(receiver.receiver_id, OTHER_WORKER, "gone", START)
    assert await due(reporting, receiver) == [sequence]
    assert await the_receiver(reporting) == receiver


# Order


async def test_events_are_due_in_their_order(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    first, second, third = await waiting(reporting, receiver, "ann", "ben", "ann")
    other = await reporting.add("other")
    await waiting(reporting, other, "ann")
    assert await due(reporting, receiver) == [first, second, third]
    [delivery] = await reporting.outbox.due(receiver.receiver_id, START, 1)
    assert delivery.sequence == first
    assert (delivery.user_id, delivery.event_type) == ("ann", EventType.SESSION_ENDED)
    assert (delivery.payload, delivery.attempts, delivery.create_time) == ("{}", 0, START)


async def test_an_event_is_delivered_once(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    first, second = await waiting(reporting, receiver, "ann", "ann")
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [first], LATER)
    assert await due(reporting, receiver) == [second]
    assert (await the_receiver(reporting)).last_success_time == LATER
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [], LATER + MINUTE)
    assert (await the_receiver(reporting)).last_success_time == LATER


async def test_a_failure_postpones_the_later_events_of_the_same_user_alone(
    reporting: Reporting,
) -> None:
    receiver = await leased(reporting)
    first, of_ben, second = await waiting(reporting, receiver, "ann", "ben", "ann")
    await postpone(reporting, receiver, first)
    [third] = await waiting(reporting, receiver, "ann")
    assert await due(reporting, receiver) == [of_ben]
    before_the_time = LATER - SECOND
    assert await due(reporting, receiver, before_the_time) == [of_ben]
    # The third event came after the failure, so it is due earlier than the first. It still must wait for it.
    assert await due(reporting, receiver, LATER) == [of_ben, first, second]
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [first, second], LATER)
    assert third in await due(reporting, receiver, LATER)
    failed = await the_receiver(reporting)
    assert (failed.last_failure_time, failed.problem) == (START, "answered 500")


async def test_no_event_comes_before_one_that_waits_for_a_failed_event(
    reporting: Reporting,
) -> None:
    """The second event is written after the failure, and the third one after the end of the wait."""
    receiver = await leased(reporting)
    first, *_ = await waiting(reporting, receiver, "ann")
    await postpone(reporting, receiver, first, LATER)
    second, third = [
        (await waiting(reporting, receiver, "ann", due_time=time))[0]
        for time in (START + SECOND, LATER + SECOND)
    ]
    now = LATER + MINUTE

    assert await due(reporting, receiver, now) == [first]
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [first], now)
    assert await due(reporting, receiver, now) == [second, third]


async def test_failures_of_an_event_are_counted_from_the_first(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    [sequence] = await waiting(reporting, receiver, "ann")
    await postpone(reporting, receiver, sequence)
    await reporting.outbox.postpone(
        receiver.receiver_id, WORKER, sequence, LATER + MINUTE, "answered 500", LATER
    )
    [delivery] = await reporting.outbox.due(receiver.receiver_id, LATER + MINUTE, 10)
    assert (delivery.attempts, delivery.first_failure_time) == (2, START)


async def test_failures_of_a_receiver_are_counted_from_the_first_since_a_success(
    reporting: Reporting,
) -> None:
    receiver = await leased(reporting)
    first, second = await waiting(reporting, receiver, "ann", "bob")
    outbox_, receiver_id = reporting.outbox, receiver.receiver_id

    async def failing_since() -> datetime | None:
        [read] = await reporting.receivers.read_receivers()
        return read.failing_since

    assert await failing_since() is None
    for sequence, now in ((first, LATER), (second, LATER + MINUTE)):
        await outbox_.postpone(receiver_id, WORKER, sequence, now + MINUTE, "refused", now)
    assert await failing_since() == LATER

    await outbox_.settle(receiver_id, WORKER, [second], LATER + 2 * MINUTE)
    assert await failing_since() is None

    await outbox_.postpone(receiver_id, WORKER, first, LATER, "refused", LATER + DAY)
    assert await failing_since() == LATER + DAY
    await outbox_.park(receiver_id, WORKER, "refused", LATER + DAY)
    await reporting.receivers.set_state(receiver_id, ReceiverState.ACTIVE)
    assert await failing_since() is None


async def test_events_of_busy_users_are_left_out(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    _, of_ben, test, everybody = await waiting(reporting, receiver, "ann", "ben", None, "")
    assert await due(reporting, receiver, busy_users=["ann"]) == [of_ben, test, everybody]


async def test_a_test_event_waits_for_no_other(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    first, second = await waiting(reporting, receiver, None, None)
    await postpone(reporting, receiver, first)
    assert await due(reporting, receiver) == [second]


async def test_the_events_of_a_user_are_found_by_the_index_of_users(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        reporting = reporting_to(engine)
        receiver = await leased(reporting)
        [sequence] = await waiting(reporting, receiver, "ann")
        with statements() as found:
            await due(reporting, receiver)
            await postpone(reporting, receiver, sequence)
        by_user = [each for each in found if "user_id =" in each]
        assert len(by_user) == 2
        with closing(sqlite3.connect(tmp_path / "authority.db")) as connection:
            for each in by_user:
                plan = connection.execute(
                    f"EXPLAIN QUERY PLAN {each}", [0] * each.count("?")
                ).fetchall()
                assert "outbox_user_id_receiver_id_delivered_time_sequence_idx" in str(plan), each


# Parking and states


async def test_a_parked_receiver_keeps_its_events_until_an_operator_resumes_it(
    reporting: Reporting,
) -> None:
    receiver = await leased(reporting)
    park = reporting.outbox.park
    first, second = await waiting(reporting, receiver, "ann", "ann")
    await postpone(reporting, receiver, first, START + DAY)
    assert await park(receiver.receiver_id, WORKER, "no answer for 3 days", LATER)
    assert not await park(receiver.receiver_id, WORKER, "again", LATER)
    parked = await the_receiver(reporting)
    assert (parked.state, parked.problem) == (ReceiverState.PARKED, "no answer for 3 days")

    assert await reporting.receivers.hurry(receiver.receiver_id, LATER, 1) == 1
    assert await reporting.receivers.hurry(receiver.receiver_id, LATER, 10) == 1
    assert await reporting.receivers.hurry(receiver.receiver_id, LATER, 10) == 0
    await reporting.receivers.set_state(receiver.receiver_id, ReceiverState.ACTIVE)
    found = await reporting.outbox.due(receiver.receiver_id, LATER, 10)
    assert sequences(found) == [first, second]
    assert [each.first_failure_time for each in found] == [None, None]


# Bounds


async def test_the_oldest_events_beyond_the_limit_are_dropped_and_counted(
    reporting: Reporting,
) -> None:
    receiver = await reporting.add()
    calm = await reporting.add("calm")
    kept = await waiting(reporting, receiver, *["ann"] * 5)
    await waiting(reporting, calm, *["ann"] * 3)
    assert await reporting.outbox.drop_excess(3) == {"crm": 2}
    assert await due(reporting, receiver) == kept[2:]
    assert await reporting.outbox.drop_excess(3) == {}
    dropped = {each.name: each.dropped for each in await reporting.receivers.read_receivers()}
    assert dropped == {"crm": 2, "calm": 0}


async def test_delivered_events_are_purged_after_a_while(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    first, second, third = await waiting(reporting, receiver, "ann", "ann", "ann")
    settle = reporting.outbox.settle
    await settle(receiver.receiver_id, WORKER, [first], START)
    await settle(receiver.receiver_id, WORKER, [second], LATER)
    assert await reporting.outbox.purge_delivered(START, 10) == 0
    assert await reporting.outbox.purge_delivered(LATER, 10) == 1
    assert sequences(await reporting.rows()) == [second, third]
    assert await reporting.outbox.purge_delivered(LATER + SECOND, 10) == 1


async def test_sequences_of_deleted_events_never_come_again(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    [first] = await waiting(reporting, receiver, "ann")
    await reporting.outbox.settle(receiver.receiver_id, WORKER, [first], START)
    await reporting.outbox.purge_delivered(LATER, 10)
    [second] = await waiting(reporting, receiver, "ann")
    assert second > first


async def test_the_events_of_a_removed_receiver_are_deleted_and_then_the_receiver(
    reporting: Reporting,
) -> None:
    receiver = await reporting.add()
    await waiting(reporting, receiver, "ann", "ann", "ann")
    assert await reporting.receivers.remove_receiver(receiver.receiver_id, START)
    assert not await reporting.receivers.remove_receiver(receiver.receiver_id, START)
    assert await reporting.receivers.read_receivers() == []
    assert await reporting.receivers.wanted()
    await reporting.add("crm")  # The name is free.
    purge = reporting.outbox.purge_removed
    assert [await purge(START, 2) for _ in range(3)] == [2, 1, 0]
    assert await purge(START + SECOND, 2) == 0
    again = await the_receiver(reporting)
    await reporting.receivers.remove_receiver(again.receiver_id, START)
    await purge(START + SECOND, 2)
    assert await reporting.receivers.wanted() == frozenset()


async def test_the_backlog_of_a_receiver_is_counted(reporting: Reporting) -> None:
    receiver = await leased(reporting)
    await reporting.add("idle")
    await waiting(reporting, receiver, "ann", create_time=START - MINUTE)
    await waiting(reporting, receiver, "ann", "ben")
    active = ReceiverState.ACTIVE
    assert await reporting.outbox.backlogs(10) == {
        "crm": Backlog(active, 3, START - MINUTE),
        "idle": Backlog(active, 0, None),
    }
    assert (await reporting.outbox.backlogs(2))["crm"].pending == 2


# Operators


async def test_counting_what_waits_delays_no_writer(reporting: Reporting) -> None:
    receiver = await reporting.add()
    await waiting(reporting, receiver, "ann")

    async def count_meanwhile(_connection: object) -> int:
        return (await reporting.outbox.backlogs(10))["crm"].pending

    assert await reporting.engine.database.write(count_meanwhile) == 1
