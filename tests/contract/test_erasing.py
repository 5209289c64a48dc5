"""Erasing users deletes their data. No earlier session becomes live again."""

import asyncio
from datetime import datetime

import pytest
from sqlalchemy import select, text

from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.ports.store import (
    ErasureBatch,
    LockedUser,
    PendingErasure,
    Transaction,
)
from session_authority_server.store.tables import erasures, sessions, sweeps, users
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, ids
from tests.support.soak import soaked

DONE = ErasureBatch(0, complete=True)


async def begin(engine: Engine, user_id: str = "ann", time: datetime = START) -> PendingErasure:
    async def work(transaction: Transaction) -> PendingErasure:
        await transaction.lock_user(user_id)
        await transaction.sweep_user(user_id, Sweep(time, InitiatingEntity.ADMIN))
        return await transaction.begin_erasure(user_id, time)

    return await engine.sessions.transact(work)


async def erase(engine: Engine, user_id: str = "ann", time: datetime = START) -> PendingErasure:
    erasure = await begin(engine, user_id, time)
    while not (await engine.sessions.erase_some(erasure, 10)).complete:
        pass
    return erasure


async def locked_user(engine: Engine, user_id: str = "ann") -> LockedUser:
    return await engine.sessions.transact(lambda transaction: transaction.lock_user(user_id))


async def stored_users(engine: Engine) -> list[str]:
    async def work(connection: object) -> list[str]:
        found = await connection.execute(select(users.c.user_id).order_by(users.c.user_id))  # type: ignore[attr-defined]
        return list(found.scalars())

    return await engine.database.read(work)


async def count(engine: Engine, name: str) -> int:
    async def work(connection: object) -> int:
        statement = text(f"SELECT count(*) FROM {name}")
        return int((await connection.execute(statement)).scalar_one())  # type: ignore[attr-defined]

    return await engine.database.read(work)


async def test_beginning_an_erasure_ends_all_sessions_of_the_user(engine: Engine) -> None:
    session, his = await engine.add(a_session(), a_session("bob"))
    await begin(engine, time=START + SECOND)
    assert not is_live(await engine.get(session.session_id), START + SECOND)
    assert is_live(await engine.get(his.session_id), START + SECOND)
    assert await locked_user(engine) == LockedUser(START + SECOND)


async def test_an_erasure_leaves_only_a_hash_of_the_user(engine: Engine) -> None:
    session, ended, his = await engine.add(a_session(), a_session(), a_session("bob"))
    await engine.sweep("ann", START)
    await engine.sweep("bob", START)
    await erase(engine)
    assert set(await engine.sessions.read_sessions(ids([session, ended, his]))) == {his.session_id}
    assert await stored_users(engine) == ["bob"]
    assert await count(engine, sweeps.name) == 1

    async def rest(connection: object) -> list[tuple[bytes, str | None]]:
        columns = select(erasures.c.user_hash, erasures.c.user_id)
        return [tuple(row) for row in await connection.execute(columns)]  # type: ignore[attr-defined]

    [(user_hash, user_id)] = await engine.database.read(rest)
    assert len(user_hash) == 32
    assert user_id is None


async def test_an_unknown_user_is_erased_like_any_other(engine: Engine) -> None:
    await erase(engine)
    assert await stored_users(engine) == []
    assert await engine.upkeep.pending_erasures(10) == []
    assert await count(engine, erasures.name) == 1


async def test_sessions_are_deleted_in_batches_and_the_last_batch_is_complete(
    engine: Engine,
) -> None:
    await engine.fill([a_session() for _ in range(5)])
    erasure = await begin(engine)
    assert await engine.upkeep.pending_erasures(10) == [erasure]
    steps = [await engine.sessions.erase_some(erasure, 2) for _ in range(3)]
    assert steps == [ErasureBatch(2, False), ErasureBatch(2, False), ErasureBatch(1, True)]
    assert await engine.upkeep.pending_erasures(10) == []
    assert await engine.sessions.erase_some(erasure, 2) == DONE


async def test_pending_erasures_come_oldest_first(engine: Engine) -> None:
    begun = [
        await begin(engine, user_id, START + after * SECOND)
        for user_id, after in (("bob", 2), ("ann", 1), ("cyd", 3))
    ]
    assert await engine.upkeep.pending_erasures(2) == [begun[1], begun[0]]


async def test_a_sign_in_that_began_before_an_erasure_stays_too_old(engine: Engine) -> None:
    await erase(engine, time=START + MINUTE)
    assert await locked_user(engine) == LockedUser(START + MINUTE)
    # The first call created the row again. The second call reads it.
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_a_user_who_returns_gets_a_higher_epoch(engine: Engine) -> None:
    before = a_session()
    await engine.add(before)
    await engine.sweep("ann", START)
    erasure = await erase(engine)
    [session] = await engine.add(a_session())
    assert is_live(await engine.get(session.session_id), START)
    assert session.user_epoch >= erasure.epoch
    # A session from before the erasure is not live, even if its row exists again.
    await engine.fill([before])
    assert not is_live(await engine.get(before.session_id), START)


async def test_a_sign_in_during_an_erasure_stays_live(engine: Engine) -> None:
    await engine.add(a_session())
    erasure = await begin(engine, time=START + SECOND)
    [session] = await engine.add(a_session(at=START + MINUTE))
    assert (await engine.sessions.erase_some(erasure, 10)) == ErasureBatch(1, complete=True)
    assert is_live(await engine.get(session.session_id), START + MINUTE)
    assert await stored_users(engine) == ["ann"]
    assert await locked_user(engine) == LockedUser(START + SECOND)
    await engine.sweep("ann", START + 2 * MINUTE)
    assert not is_live(await engine.get(session.session_id), START + 2 * MINUTE)


async def test_a_sweep_during_an_erasure_stays_in_force(
    engine: Engine,
) -> None:
    erasure = await begin(engine, time=START + SECOND)
    await engine.sweep("ann", START + MINUTE)
    assert (await engine.sessions.erase_some(erasure, 10)).complete
    assert await stored_users(engine) == []
    assert await count(engine, sweeps.name) == 0
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_a_second_erasure_replaces_the_first(engine: Engine) -> None:
    first = await begin(engine)
    [session] = await engine.add(a_session(at=START + SECOND))
    second = await begin(engine, time=START + MINUTE)
    assert not (await engine.sessions.erase_some(first, 10)).complete
    assert await engine.upkeep.pending_erasures(10) == [second]
    assert await engine.sessions.erase_some(second, 10) == ErasureBatch(1, complete=True)
    assert await engine.sessions.read_sessions([session.session_id]) == {}
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_a_user_can_be_erased_again(engine: Engine) -> None:
    await erase(engine)
    await engine.add(a_session())
    await erase(engine, time=START + MINUTE)
    assert await stored_users(engine) == []
    assert await count(engine, sessions.name) == 0
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_the_hash_of_a_user_erased_long_ago_is_deleted(engine: Engine) -> None:
    await erase(engine, "ann", START)
    await erase(engine, "bob", START + DAY)
    await begin(engine, "cyd", START)
    assert await engine.upkeep.purge_erasures(START + SECOND, 10) == 1
    assert await locked_user(engine, "ann") == LockedUser(None)
    assert await locked_user(engine, "bob") == LockedUser(START + DAY)
    assert [each.user_id for each in await engine.upkeep.pending_erasures(10)] == ["cyd"]


@pytest.mark.soak
async def test_sign_ins_that_race_an_erasure_leave_no_session_without_a_user(
    engine: Engine,
) -> None:
    """Sessions from before the erasure are deleted, and later sessions have a user."""
    for _ in range(soaked(long=30, short=3)):

        async def sign_in() -> None:
            async def work(transaction: Transaction) -> None:
                standing = await transaction.lock_user("ann")
                if standing.swept_time is None:  # the erasure has not begun
                    await transaction.insert_session(a_session())

            await engine.sessions.transact(work)

        await asyncio.gather(*(sign_in() for _ in range(4)), erase(engine), erase(engine))
        assert await engine.upkeep.pending_erasures(10) == []
        assert await count(engine, sessions.name) == 0
        assert (await locked_user(engine)).swept_time == START
        await engine.execute(*(table.delete() for table in (users, erasures)))
