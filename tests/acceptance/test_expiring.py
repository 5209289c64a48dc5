"""Scenarios 26 to 30: expiry and the worker."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from session_authority import AsyncSessionClient, Rejection, RejectionReason
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
)
from session_authority_server.observability.metrics import WORKER_RUNS
from session_authority_server.ports.upkeep import ExpiryBatch
from session_authority_server.store.database import Database
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_workers.expire import Expire
from session_authority_workers.pace import Pace
from session_authority_workers.purge import Purge
from session_authority_workers.schedule import Schedule
from tests.support.authority import NO_HOLD_BACK, NOON, Authority, a_session, insert_sessions

SMALL = Pace(batch=50, largest_batch=50, largest_scan=50, safety_lag=timedelta(0))
LONG_AGO = NOON - timedelta(days=90, hours=1)


async def _overdue(authority: Authority, count: int) -> Sequence[Session]:
    made = [a_session(f"user-{number % 20}", LONG_AGO)[0] for number in range(count)]
    await insert_sessions(authority.database, made)
    return made


# Counts the sessions that the worker has ended. It records idle timeouts, and only counts expired sessions.
ENDED = (
    "(end_time IS NOT NULL OR "
    "(check_time, session_id) <= (SELECT expired_until, expired_id FROM upkeep))"
)


def _unended(authority: Authority) -> int:
    [(count,)] = authority.query(f"SELECT count(*) FROM sessions WHERE NOT {ENDED}")
    return int(count)


async def test_26_the_worker_ends_sessions_past_90_days_in_bounded_batches(
    authority: Authority,
) -> None:
    made = await _overdue(authority, 130)
    batches: list[int] = []

    assert await authority.expire(SMALL)(batches.append) == 130

    assert sum(batches) == 130
    assert max(batches) <= SMALL.batch
    assert _unended(authority) == 0
    found = await authority.store.read_sessions([each.session_id for each in made])
    assert len(found) == 130
    for each in found.values():  # each session ended when its lifetime was over
        end = Ending(each.expire_time, EndReason.EXPIRED, InitiatingEntity.POLICY)
        assert ending_of(each, authority.clock.now()) == end


async def test_26_validation_continues_while_the_worker_runs(
    authority: Authority, client: AsyncSessionClient
) -> None:
    await _overdue(authority, 600)
    new = await client.create("ada")
    working = asyncio.create_task(authority.expire(SMALL)())
    validated = 0
    while not working.done():
        assert await client.validate(new.token)
        validated += 1

    assert await working == 600
    assert validated > 10


async def test_26_a_worker_stopped_at_any_moment_loses_nothing(authority: Authority) -> None:
    await _overdue(authority, 200)
    reported = 0
    runs = 0
    while _unended(authority):
        batches: list[int] = []
        working = asyncio.create_task(authority.expire(SMALL)(batches.append))
        while not working.done() and len(batches) < 2:
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait([working])
        reported += sum(batches)
        runs += 1

    assert runs > 1, "the worker was really interrupted"
    assert reported <= 200
    assert await authority.expire(SMALL)() == 0


async def test_27_a_session_is_live_a_second_before_its_expiry_and_not_a_second_after(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    authority.pass_time(days=90, seconds=-1)
    assert await authority.expire()() == 0
    assert await client.validate(new.token)

    authority.pass_time(seconds=2)

    assert await client.validate(new.token) == Rejection(RejectionReason.EXPIRED)
    assert await authority.expire()() == 1
    assert await client.validate(new.token) == Rejection(RejectionReason.EXPIRED)


async def test_28_the_worker_ends_nothing_that_validation_would_still_accept(
    authority: Authority, client: AsyncSessionClient
) -> None:
    made = [
        await client.create(
            "ada",
            lifetime=timedelta(minutes=minutes),
            idle_timeout=timedelta(minutes=2) if minutes % 2 else None,
        )
        for minutes in range(1, 5)
    ]
    for _ in range(5 * 4):
        authority.pass_time(seconds=15)
        await authority.expire()()
        ended = {
            row[0]
            for row in authority.query(f"SELECT lower(hex(session_id)) FROM sessions WHERE {ENDED}")
        }
        for new in made:
            if await client.validate(new.token, passive=True):
                assert new.session.session_id.replace("-", "") not in ended
    assert _unended(authority) == 0


async def test_28_a_session_in_use_outlives_its_idle_timeout_under_a_busy_worker(
    authority: Authority, client: AsyncSessionClient
) -> None:
    used = await client.create("ada", idle_timeout=timedelta(minutes=1))
    left = await client.create("ada", idle_timeout=timedelta(minutes=1))
    for second in range(1, 121):
        authority.pass_time(seconds=1)
        if second % 2 == 0:  # as often as the server does
            await authority.activity.flush()
        await authority.expire()()
        if second % 50 == 0:
            assert await client.validate(used.token), f"in use, after {second} s"

    assert await client.validate(left.token) == Rejection(RejectionReason.IDLE_TIMEOUT)


async def test_28_by_default_the_worker_lags_behind_the_slowest_clock(
    authority: Authority, client: AsyncSessionClient
) -> None:
    await client.create("ada", lifetime=timedelta(minutes=1))
    authority.pass_time(minutes=1, seconds=4)
    assert await authority.expire(Pace())() == 0
    authority.pass_time(seconds=1)
    assert await authority.expire(Pace())() == 1


async def test_29_concurrent_workers_end_each_session_once(authority: Authority) -> None:
    await _overdue(authority, 300)
    databases = [Database.sqlite(authority.path) for _ in range(3)]
    try:
        ended = await asyncio.gather(
            *(Expire(SqlUpkeepStore(database), authority.clock, SMALL)() for database in databases)
        )
    finally:
        for database in databases:
            await database.close()

    assert sum(ended) == 300
    assert sum(map(bool, ended)) > 1, "several had a part in it"
    assert _unended(authority) == 0


class FaultyUpkeep(SqlUpkeepStore):
    """A store whose first two expiry steps fail."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.failures_left = 2
        self.mended = asyncio.Event()

    async def end_overdue(self, *arguments: object, **named: object) -> ExpiryBatch:
        if self.failures_left:
            self.failures_left -= 1
            raise ZeroDivisionError("the disk is full of zeros")
        batch = await super().end_overdue(*arguments, **named)  # type: ignore[arg-type]
        if not batch.examined:
            self.mended.set()
        return batch


def _runs(outcome: str) -> float:
    return WORKER_RUNS.value("expire", outcome)


async def test_30_a_failed_run_is_logged_and_retried_at_the_next_tick(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The schedule waits in real time, so this test uses the real clock.
    clock, store = SystemClock(), FaultyUpkeep(authority.database)
    long_ago = clock.now() - timedelta(days=91)
    await insert_sessions(authority.database, [a_session("ada", long_ago)[0] for _ in range(10)])
    failed, done = _runs("failed"), _runs("done")
    schedule = Schedule(
        Expire(store, clock, NO_HOLD_BACK),
        [Purge(store, clock, Policy(history_retention=timedelta(days=10_000)))],
        clock,
        timedelta(milliseconds=50),
    )
    schedule.start()
    try:
        async with asyncio.timeout(10):
            await store.mended.wait()
            while _runs("done") == done:
                await asyncio.sleep(0.01)
    finally:
        await schedule.stop()

    assert _runs("failed") == failed + 2
    assert _unended(authority) == 0
    complaints = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(complaints) == 2
    assert all("tried again at the next tick" in record.getMessage() for record in complaints)
