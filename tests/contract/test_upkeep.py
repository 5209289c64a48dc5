"""Purging sessions, deleting old retry records, and partitions."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import text

from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.token import new_id
from session_authority_server.ports.store import (
    Touch,
    Transaction,
)
from session_authority_server.store.engine import sqlite
from tests.contract.upkeeping import NOW, end
from tests.support.engines import (
    DAY,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
)

# History


async def test_purging_deletes_only_sessions_that_ended_before_a_time_oldest_first(
    engine: Engine,
) -> None:
    live = a_session()
    ended = [a_session() for _ in range(5)]
    await engine.add(live, *ended)
    for number, session in enumerate(ended):
        await end(engine, session, START + number * SECOND)
    before = START + 3 * SECOND
    assert await engine.upkeep.count_purgeable(before, 10) == 3
    assert await engine.upkeep.count_purgeable(before, 2) == 2
    assert await engine.upkeep.purge_ended(before, 2) == 2
    left = await engine.sessions.read_sessions(ids([live, *ended]))
    assert set(left) == set(ids([live, *ended[2:]]))
    assert await engine.upkeep.purge_ended(before, 2) == 1
    assert await engine.upkeep.purge_ended(before, 2) == 0
    assert await engine.upkeep.count_purgeable(before, 2) == 0
    assert set(await engine.sessions.read_sessions(ids(ended))) == set(ids(ended[3:]))


@pytest.mark.parametrize("worker_ran", [True, False])
async def test_purging_deletes_expired_sessions_even_if_no_worker_found_them(
    engine: Engine, worker_ran: bool
) -> None:
    expired = [a_session(lifetime=(n + 1) * SECOND) for n in range(5)]
    in_use = a_session(lifetime=DAY, idle_timeout=SECOND)
    signed_out = a_session(lifetime=SECOND)
    await engine.add(*expired, in_use, signed_out)
    await end(engine, signed_out, START)
    await engine.sessions.touch([Touch(in_use.session_id, NOW, None)], lambda: START)
    if worker_ran:
        assert len((await engine.upkeep.end_overdue(NOW, 10, named=True)).ended) == 5
    before = START + 4 * SECOND  # the fourth session ended at this instant
    assert await engine.upkeep.count_purgeable(before, 2) == 2
    assert await engine.upkeep.count_purgeable(before, 10) == 4
    assert await engine.upkeep.purge_ended(before, 3) == 3
    assert set(await engine.sessions.read_sessions(ids(expired))) == set(ids(expired[2:]))
    assert await engine.upkeep.purge_ended(before, 3) == 1
    assert await engine.upkeep.purge_ended(before, 3) == 0
    left = await engine.sessions.read_sessions(ids([*expired, in_use, signed_out]))
    assert set(left) == set(ids([*expired[3:], in_use]))


async def test_concurrent_purges_delete_each_row_once(engine: Engine) -> None:
    sessions = [a_session() for _ in range(40)]
    await engine.add(*sessions)
    for session in sessions:
        await end(engine, session, START)
    counts = await asyncio.gather(*(engine.upkeep.purge_ended(NOW, 15) for _ in range(4)))
    assert sum(counts) == 40


async def test_retry_records_are_deleted_when_their_window_has_closed(engine: Engine) -> None:
    attempts = [
        AnsweredAttempt(bytes([n]) * 32, b"p" * 32, uuid4(), b"s" * 32, START + n * SECOND)
        for n in range(5)
    ]

    async def work(transaction: Transaction) -> None:
        for attempt in attempts:
            await transaction.write_attempt(attempt)

    await engine.sessions.transact(work)
    now = START + 2 * SECOND  # the third attempt's window closes at this instant
    assert await engine.upkeep.forget_attempts(now, 2) == 2
    assert await engine.upkeep.forget_attempts(now, 2) == 1
    assert await engine.upkeep.forget_attempts(now, 2) == 0

    async def read(transaction: Transaction) -> list[bool]:
        found = [await transaction.read_attempt(attempt.retry_hash) for attempt in attempts]
        return [attempt is not None for attempt in found]

    assert await engine.sessions.transact(read) == [False, False, False, True, True]


# Partitions


async def test_a_store_without_partitions_creates_and_drops_none(engine: Engine) -> None:
    if not await engine.upkeep.missing_partitions(NOW + 90 * DAY):
        assert not await engine.upkeep.old_partitions(NOW + 90 * DAY, NOW + 90 * DAY)
        assert not await engine.upkeep.make_partition(START)
        assert not await engine.upkeep.drop_partition("sessions")


async def test_purging_leaves_expired_sessions_to_their_partitions_if_there_are_any(
    engine: Engine,
) -> None:
    session = a_session(session_id=new_id(START))
    await engine.add(session)
    await end(engine, session, START + SECOND)
    in_partitions = bool(await engine.upkeep.missing_partitions(NOW + 90 * DAY))
    purged = await engine.upkeep.purge_ended(NOW, 10, START + DAY)
    assert purged == (0 if in_partitions else 1)
    assert await engine.upkeep.purge_ended(NOW, 10, START - DAY) == 1 - purged


# The number of live sessions


async def test_the_live_sessions_are_estimated_without_counting_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_out = Ending(NOW, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    # Sign-ins of the last 100 days, of which a third has signed out.
    made = [a_session(at=NOW - DAY * n / 12, lifetime=90 * DAY) for n in range(1_200)]
    kept = [replace(each, ending=None if n % 3 else signed_out) for n, each in enumerate(made)]
    await engine.fill(kept)
    await engine.execute(text("ANALYZE sessions"))
    live = sum(each.ending is None and each.expire_time > NOW for each in kept)

    assert await engine.upkeep.estimate_live(NOW) == pytest.approx(live, rel=0.2)
    if isinstance(engine.database.dialect, sqlite.Sqlite):
        monkeypatch.setattr(sqlite, "LIVE_COUNT_LIMIT", 100)
        assert await engine.upkeep.estimate_live(NOW) == 100
