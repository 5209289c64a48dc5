"""Repair of times that a wrong clock wrote to the tables."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.ports.store import Transaction
from session_authority_server.store.clock_times import RepairCounts, read_latest_time, repair
from session_authority_server.store.tables import upkeep
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session

HOUR = timedelta(hours=1)


async def noted(engine: Engine) -> datetime | None:
    async def read(connection: AsyncConnection) -> datetime | None:
        found: datetime | None = (
            await connection.execute(select(upkeep.c.clock_time))
        ).scalar_one()
        return found

    return await engine.database.read(read)


@pytest.fixture
async def engine_with_noted_clock(engine: Engine) -> Engine:
    await engine.execute(update(upkeep).values(clock_time=START))
    return engine


@pytest.mark.parametrize(
    ("later", "moves"),
    [
        (timedelta(0), False),
        (59 * SECOND, False),
        (MINUTE, True),
        (DAY, True),
        (DAY + SECOND, False),
        (400 * DAY, False),
        (-HOUR, False),
    ],
)
async def test_the_noted_clock_time_moves_if_a_minute_to_a_day_has_passed(
    engine_with_noted_clock: Engine, later: timedelta, moves: bool
) -> None:
    now = START + later
    assert await engine_with_noted_clock.upkeep.note_clock_time(now, DAY) == START
    assert await noted(engine_with_noted_clock) == (now if moves else START)


async def test_a_new_database_notes_its_clock_time(engine: Engine) -> None:
    assert await noted(engine) is not None


async def test_a_repair_moves_sessions_from_the_future_to_the_present(engine: Engine) -> None:
    ahead = a_session("ann", at=START + HOUR)
    right = a_session("bob", at=START - HOUR)
    used = a_session("cyd", at=START - HOUR, last_active=START + HOUR)
    await engine.add(ahead, right, used)
    assert await repair(engine.database, START) == RepairCounts(sessions=2)
    for each in (ahead, used):
        found = await engine.get(each.session_id)
        assert max(found.create_time, found.authenticate_time, found.last_active_time) == START
        assert found.expire_time <= START + found.lifetime
    assert (await engine.get(right.session_id)).create_time == START - HOUR
    assert (await engine.get(used.session_id)).create_time == START - HOUR
    assert await repair(engine.database, START) == RepairCounts()


async def test_a_repair_reopens_sessions_that_timed_out_only_in_the_future(
    engine: Engine,
) -> None:
    idle = a_session("ann", at=START, idle_timeout=HOUR)
    left = a_session("bob", at=START)
    await engine.add(idle, left)
    signed_out = Ending(START + 3 * HOUR, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    await engine.sessions.transact(lambda t: t.end_session(left.session_id, signed_out))
    assert (await engine.upkeep.end_overdue(START + 3 * HOUR, 10)).count == 1
    assert (await engine.get(idle.session_id)).ending is not None

    done = await repair(engine.database, START + MINUTE)
    assert done == RepairCounts(sessions=2, reopened=1)
    assert (await engine.get(idle.session_id)).ending is None
    assert (await engine.get(left.session_id)).ending == replace(signed_out, time=START + MINUTE)
    assert (await engine.upkeep.end_overdue(START + HOUR - SECOND, 10)).count == 0
    assert (await engine.upkeep.end_overdue(START + HOUR + SECOND, 10)).count == 1
    ending = (await engine.get(idle.session_id)).ending
    assert ending is not None
    assert ending.reason is EndReason.IDLE_TIMEOUT


async def test_a_repair_keeps_sessions_ended_that_ended_before_the_present(engine: Engine) -> None:
    idle = a_session("ann", at=START, idle_timeout=HOUR)
    await engine.add(idle)
    await engine.upkeep.end_overdue(START + 3 * HOUR, 10)
    assert (await repair(engine.database, START + 2 * HOUR)).reopened == 0
    assert (await engine.get(idle.session_id)).ending is not None


async def test_a_repair_moves_sweeps_from_the_future_to_the_present(engine: Engine) -> None:
    await engine.add(a_session("ann"))
    sweep = Sweep(START + HOUR, InitiatingEntity.ADMIN)

    async def sweep_both(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        await transaction.sweep_user("ann", sweep)
        await transaction.sweep_everybody(sweep)

    await engine.sessions.transact(sweep_both)
    latest = await read_latest_time(engine.database)
    assert latest is not None
    assert latest >= START + HOUR
    assert (await repair(engine.database, START)).sweeps == 4
    assert await read_latest_time(engine.database) == START

    async def standing(transaction: Transaction) -> datetime | None:
        return (await transaction.lock_user("ann")).swept_time

    assert await engine.sessions.transact(standing) == START


async def test_a_repair_notes_the_clock_time(engine_with_noted_clock: Engine) -> None:
    await repair(engine_with_noted_clock.database, START + 400 * DAY)
    assert (
        await engine_with_noted_clock.upkeep.note_clock_time(START + 400 * DAY, DAY)
        == START + 400 * DAY
    )
