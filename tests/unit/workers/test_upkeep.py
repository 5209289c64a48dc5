import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.observability.metrics import SESSIONS_ENDED
from session_authority_server.ports.store import NO_AUDIT, PendingErasure, Transaction
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_workers.expire import Expire
from session_authority_workers.pace import Pace
from session_authority_workers.purge import MIN_RETENTION, Erase, Purge
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, ids

QUICK = Pace(batch=3, largest_batch=3, largest_scan=3, pause_share=0)
RETENTION = Policy().history_retention


class FailingAfter:
    """An upkeep store that fails after a number of steps."""

    def __init__(self, store: UpkeepStore, steps: int) -> None:
        self._store = store
        self.steps = steps

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def step(*args: Any, **named: Any) -> Any:
            if not self.steps:
                raise StoreUnavailable("writing")
            self.steps -= 1
            return await getattr(self._store, name)(*args, **named)

        return step


async def recorded(engine: Engine, session_ids: list[Any]) -> int:
    found = await engine.sessions.read_sessions(session_ids)
    return sum(session.ending is not None for session in found.values())


async def ended(engine: Engine, clock: ManualClock, sessions: Sequence[Session]) -> int:
    found = await engine.sessions.read_sessions(ids(sessions))
    return sum(not is_live(session, clock.now()) for session in found.values())


# Expiring


async def test_sweeps_are_settled(engine: Engine, clock: ManualClock) -> None:
    hers = [a_session() for _ in range(7)]
    his = [a_session("bob") for _ in range(4)]
    await engine.add(*hers, *his)
    await engine.sweep("ann", START + SECOND)
    expire = Expire(engine.upkeep, clock, QUICK)
    assert await expire() == 7
    await engine.sweep_everybody(START + 2 * SECOND)
    clock.advance(2 * MINUTE)
    assert await expire() == 4
    assert await engine.upkeep.pending_sweeps(10) == []
    assert await recorded(engine, ids([*hers, *his])) == 11


@pytest.mark.parametrize("named", [False, True])
async def test_each_ending_is_counted_once_by_its_reason(
    engine: Engine, clock: ManualClock, named: bool
) -> None:
    of_time = [a_session("cat", lifetime=MINUTE) for _ in range(4)]
    of_idleness = [a_session("dan", idle_timeout=MINUTE) for _ in range(2)]
    await engine.add(a_session(), *of_time, *of_idleness, a_session("live"))
    await engine.sweep("ann", START + SECOND)
    before = {reason: SESSIONS_ENDED.value(reason.value) for reason in EndReason}
    clock.advance(5 * MINUTE)

    # Any other audit log than NO_AUDIT makes the store name the expired sessions.
    audit = type(NO_AUDIT)() if named else NO_AUDIT
    for _ in range(2):
        await Expire(engine.upkeep, clock, QUICK, audit)()

    counts = {reason: SESSIONS_ENDED.value(reason.value) - before[reason] for reason in EndReason}
    expected = {EndReason.EXPIRED: 4, EndReason.IDLE_TIMEOUT: 2, EndReason.REVOKED: 1}
    assert {reason: count for reason, count in counts.items() if count} == expected


async def test_a_sign_in_that_commits_after_a_settled_global_sweep_gets_a_recorded_ending(
    engine: Engine, clock: ManualClock
) -> None:
    """A sign-in that began before a global sweep commits after the worker has finished the sweep."""
    early, late = a_session(), a_session("bob")
    await engine.add(early)
    await engine.sweep_everybody(START)
    clock.advance(QUICK.safety_lag + QUICK.rest)
    await Expire(engine.upkeep, clock, QUICK)()
    assert [each.epoch for each in await engine.upkeep.pending_sweeps(10)] == [1]
    await engine.fill([late])  # the session has the epoch of before the sweep
    clock.advance(SECOND)
    assert await Expire(engine.upkeep, clock, QUICK)() == 2
    assert await engine.upkeep.pending_sweeps(10) == []
    revoked = Ending(START, EndReason.REVOKED, InitiatingEntity.ADMIN)
    for each in (early, late):
        assert (await engine.get(each.session_id)).ending == revoked


async def test_the_worker_finishes_an_erasure_that_ran_out_of_time(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.fill([a_session() for _ in range(7)] + [a_session("bob")])
    for user_id in ("ann", "cyd"):
        pending = await erasure_of(engine, user_id)
        assert pending in await engine.upkeep.pending_erasures(10)
    erase = Erase(engine.upkeep, engine.sessions, QUICK)
    assert await erase.count(10) == 2
    reported: list[int] = []
    assert await erase(reported.append) == 7
    assert sum(reported) == 7
    assert await engine.upkeep.pending_erasures(10) == []
    assert await erase() == 0


async def test_the_hash_of_an_erased_user_is_deleted_after_thirty_days(
    engine: Engine, clock: ManualClock
) -> None:
    await erasure_of(engine, "ann")
    await Erase(engine.upkeep, engine.sessions, QUICK)()
    clock.advance(timedelta(days=30))
    assert await Purge(engine.upkeep, clock, Policy(), QUICK)() == 0
    clock.advance(SECOND)
    assert await Purge(engine.upkeep, clock, Policy(), QUICK)() == 1


async def erasure_of(engine: Engine, user_id: str) -> PendingErasure:
    """Begin to erase a user, without deleting anything."""

    async def work(transaction: Transaction) -> PendingErasure:
        await transaction.lock_user(user_id)
        await transaction.sweep_user(user_id, Sweep(START, InitiatingEntity.ADMIN))
        return await transaction.begin_erasure(user_id, START)

    return await engine.sessions.transact(work)


@pytest.mark.parametrize("steps", range(8))
async def test_a_worker_that_is_killed_and_restarted_loses_no_ending(
    engine: Engine, clock: ManualClock, steps: int
) -> None:
    sessions = [a_session(lifetime=MINUTE) for _ in range(7)]
    swept = [a_session("bob") for _ in range(5)]
    await engine.add(*sessions, *swept)
    await engine.sweep("bob", START)
    clock.advance(60 * MINUTE)
    broken = cast("UpkeepStore", FailingAfter(engine.upkeep, steps))
    reported: list[int] = []
    with pytest.raises(StoreUnavailable):
        await Expire(broken, clock, QUICK)(reported.append)
    # The database has exactly the reported endings.
    assert await engine.upkeep.count_overdue(clock.now(), 10) == max(0, 7 - sum(reported))
    assert await recorded(engine, ids(sessions + swept)) == max(0, sum(reported) - 7)
    assert await Expire(engine.upkeep, clock, QUICK)() == 12 - sum(reported)
    assert await engine.upkeep.pending_sweeps(10) == []


async def test_other_writers_get_a_turn_between_two_batches(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.add(*(a_session(lifetime=MINUTE) for _ in range(30)))
    clock.advance(60 * MINUTE)
    reported: list[int] = []
    expiring = asyncio.create_task(Expire(engine.upkeep, clock, QUICK)(reported.append))
    while not reported:
        await asyncio.sleep(0)
    await engine.add(a_session())
    assert len(reported) < 10
    await expiring


# Purging


async def test_only_history_older_than_the_retention_is_deleted(
    engine: Engine, clock: ManualClock
) -> None:
    sessions = [a_session(lifetime=(n + 1) * DAY) for n in range(8)]
    await engine.add(*sessions, a_session(lifetime=90 * DAY))
    clock.advance(RETENTION + 5 * DAY)
    await Expire(engine.upkeep, clock, QUICK)()
    purge = Purge(engine.upkeep, clock, Policy(), QUICK)
    assert await purge.count(100) == 4
    reported: list[int] = []
    assert await purge(reported.append) == 4
    assert reported == [3, 1]
    left = await engine.sessions.read_sessions(ids(sessions))
    assert set(left) == set(ids(sessions[4:]))  # the fifth session ended at the limit
    assert await purge() == 0


async def test_with_a_retention_of_zero_expired_sessions_stay_until_clients_have_noticed(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.add(a_session(lifetime=MINUTE))
    purge = Purge(engine.upkeep, clock, Policy(history_retention=timedelta(0)), QUICK)
    clock.advance(MINUTE + MIN_RETENTION)
    assert await purge() == 0
    clock.advance(SECOND)
    assert await purge() == 1


async def test_retry_records_whose_window_has_closed_are_purged(
    engine: Engine, clock: ManualClock
) -> None:
    async def work(transaction: Transaction) -> None:
        for n in range(5):
            await transaction.write_attempt(
                AnsweredAttempt(bytes([n]) * 32, b"", uuid4(), b"", START + n * MINUTE)
            )

    await engine.sessions.transact(work)
    clock.advance(3 * MINUTE)
    assert await Purge(engine.upkeep, clock, Policy(), QUICK)() == 4


async def test_a_purge_that_fails_keeps_its_earlier_deletions(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.add(*(a_session(lifetime=DAY) for _ in range(7)))
    clock.advance(DAY + MINUTE)
    await Expire(engine.upkeep, clock, QUICK)()
    clock.advance(RETENTION)
    broken = cast("UpkeepStore", FailingAfter(engine.upkeep, 2))
    with pytest.raises(StoreUnavailable):
        await Purge(broken, clock, Policy(), QUICK)()
    assert await Purge(engine.upkeep, clock, Policy(), QUICK)() == 4
