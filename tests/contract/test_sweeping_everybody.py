"""Global sweeps, which end the sessions of all users, while sign-ins are in flight."""

import asyncio

import pytest

from session_authority_server.domain.liveness import ending_of, is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Sweep
from session_authority_server.ports.store import LockedUser, Transaction
from session_authority_server.ports.upkeep import PendingSweep
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session, ids

ADMIN = InitiatingEntity.ADMIN


async def locked_user(engine: Engine, user_id: str) -> LockedUser:
    return await engine.sessions.transact(lambda transaction: transaction.lock_user(user_id))


async def test_every_read_after_a_global_sweep_finds_all_sessions_ended_even_cached_ones(
    engine: Engine,
) -> None:
    sessions = await engine.add(a_session(), a_session("bob"))
    for _ in range(2):  # the first read fills the cache
        found = await engine.sessions.read_sessions(ids(sessions))
        assert all(is_live(each, START) for each in found.values())
    await engine.sweep_everybody(START + SECOND)
    found = await engine.sessions.read_sessions(ids(sessions))
    ending = Ending(START + SECOND, EndReason.REVOKED, ADMIN)
    assert [ending_of(each, START + MINUTE) for each in found.values()] == [ending, ending]


@pytest.mark.parametrize("whose", ["hers", "everybody's"])
async def test_a_sweep_by_a_slow_clock_does_not_move_the_sweep_time_back(
    engine: Engine, whose: str
) -> None:
    for time in (START + MINUTE, START):
        if whose == "hers":
            await engine.sweep("ann", time)
        else:
            await engine.sweep_everybody(time)
    assert await locked_user(engine, "ann") == LockedUser(START + MINUTE)


async def test_settling_a_global_sweep_can_wait_without_delaying_others(engine: Engine) -> None:
    await engine.sweep("ann", START + SECOND)
    await engine.sweep_everybody(START)
    hers, everybodys = PendingSweep("ann", 1), PendingSweep("", 1)
    assert await engine.upkeep.pending_sweeps(10, START) == [hers]
    assert await engine.upkeep.pending_sweeps(10, START + SECOND) == [everybodys, hers]
    assert await engine.upkeep.pending_sweeps(10) == [everybodys, hers]


async def test_a_sign_in_in_flight_does_not_survive_a_global_sweep(engine: Engine) -> None:
    """The sign-in is swept, or its transaction runs again and reads the sweep."""
    begun, swept = asyncio.Event(), asyncio.Event()
    session, seen = a_session(), []

    async def sign_in(transaction: Transaction) -> None:
        seen.append(await transaction.lock_user("ann"))
        begun.set()
        if (
            engine.database.dialect.takes_arrays
        ):  # SQLite has one writer, so the two calls cannot overlap
            await swept.wait()
        await transaction.insert_session(session)

    async def sweep() -> None:
        await begun.wait()
        await engine.sweep_everybody(START + SECOND)
        swept.set()

    await asyncio.gather(engine.sessions.transact(sign_in), sweep())
    found = await engine.get(session.session_id)
    if seen[-1] == LockedUser(None):
        assert not is_live(found, START + SECOND)
    else:  # the sign-in ran again and read the sweep
        assert seen == [LockedUser(None), LockedUser(START + SECOND)]


async def test_each_of_many_concurrent_global_sweeps_raises_the_epoch(engine: Engine) -> None:
    await asyncio.gather(*(engine.sweep_everybody(START + n * SECOND) for n in range(5)))
    [session] = await engine.add(a_session())
    assert session.global_epoch == 5
    assert is_live(await engine.get(session.session_id), START)


async def test_the_reason_is_stored_with_the_sweep(engine: Engine) -> None:
    sweep = Sweep(START, ADMIN, "a laptop was stolen")

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        await transaction.sweep_user("ann", sweep)
        await transaction.sweep_everybody(sweep)

    await engine.sessions.transact(work)

    async def reasons(connection: object) -> list[str]:
        found = await connection.exec_driver_sql("SELECT reason FROM sweeps")  # type: ignore[attr-defined]
        return list(found.scalars())

    assert await engine.database.read(reasons) == [sweep.reason] * 2
