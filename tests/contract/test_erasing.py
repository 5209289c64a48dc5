"""Erasing users: nothing of theirs is left, and nothing that began before comes to life again."""

import asyncio
from datetime import datetime

from sqlalchemy import select, text

from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.ports import (
    ErasureBatch,
    LockedUser,
    PendingErasure,
    Transaction,
)
from session_authority_server.store.tables import erasures, sessions, sweeps, users
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, ids

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


async def users_there(engine: Engine) -> list[str]:
    async def work(connection: object) -> list[str]:
        found = await connection.execute(select(users.c.user_id).order_by(users.c.user_id))  # type: ignore[attr-defined]
        return list(found.scalars())

    return await engine.database.read(work)


async def count(engine: Engine, name: str) -> int:
    async def work(connection: object) -> int:
        statement = text(f"SELECT count(*) FROM {name}")
        return int((await connection.execute(statement)).scalar_one())  # type: ignore[attr-defined]

    return await engine.database.read(work)


async def test_an_erasure_that_has_only_begun_ends_everything(engine: Engine) -> None:
    session, his = await engine.add(a_session(), a_session("bob"))
    await begin(engine, time=START + SECOND)
    assert not is_live(await engine.get(session.session_id), START + SECOND)
    assert is_live(await engine.get(his.session_id), START + SECOND)
    assert await locked_user(engine) == LockedUser(START + SECOND)


async def test_an_erased_user_is_nowhere_but_in_a_hash(engine: Engine) -> None:
    session, ended, his = await engine.add(a_session(), a_session(), a_session("bob"))
    await engine.sweep("ann", START)
    await engine.sweep("bob", START)
    await erase(engine)
    assert set(await engine.sessions.read_sessions(ids([session, ended, his]))) == {his.session_id}
    assert await users_there(engine) == ["bob"]
    assert await count(engine, sweeps.name) == 1

    async def rest(connection: object) -> list[tuple[bytes, str | None]]:
        columns = select(erasures.c.user_hash, erasures.c.user_id)
        return [tuple(row) for row in await connection.execute(columns)]  # type: ignore[attr-defined]

    [(user_hash, user_id)] = await engine.database.read(rest)
    assert len(user_hash) == 32
    assert user_id is None


async def test_a_user_of_whom_nothing_is_known_is_erased_like_any_other(engine: Engine) -> None:
    await erase(engine)
    assert await users_there(engine) == []
    assert await engine.upkeep.pending_erasures(10) == []
    assert await count(engine, erasures.name) == 1


async def test_sessions_are_deleted_in_steps_and_the_last_says_so(engine: Engine) -> None:
    await engine.fill([a_session() for _ in range(5)])
    erasure = await begin(engine)
    assert await engine.upkeep.pending_erasures(10) == [erasure]
    steps = [await engine.sessions.erase_some(erasure, 2) for _ in range(3)]
    assert steps == [ErasureBatch(2, False), ErasureBatch(2, False), ErasureBatch(1, True)]
    assert await engine.upkeep.pending_erasures(10) == []
    assert await engine.sessions.erase_some(erasure, 2) == DONE


async def test_erasures_are_gone_on_with_the_oldest_first(engine: Engine) -> None:
    begun = [
        await begin(engine, user_id, START + after * SECOND)
        for user_id, after in (("bob", 2), ("ann", 1), ("cyd", 3))
    ]
    assert await engine.upkeep.pending_erasures(2) == [begun[1], begun[0]]


async def test_what_began_before_an_erasure_is_too_old_for_ever_after(engine: Engine) -> None:
    await erase(engine, time=START + MINUTE)
    assert await locked_user(engine) == LockedUser(START + MINUTE)
    # The row is there again, and there the second one to begin so early finds it.
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_a_user_who_comes_back_has_none_of_the_epochs_before(engine: Engine) -> None:
    before = a_session()
    await engine.add(before)
    await engine.sweep("ann", START)
    erasure = await erase(engine)
    [session] = await engine.add(a_session())
    assert is_live(await engine.get(session.session_id), START)
    assert session.user_epoch >= erasure.epoch
    # Whatever way it came back: a session of before is not good.
    await engine.fill([before])
    assert not is_live(await engine.get(before.session_id), START)


async def test_who_signs_in_anew_during_an_erasure_stays(engine: Engine) -> None:
    await engine.add(a_session())
    erasure = await begin(engine, time=START + SECOND)
    [session] = await engine.add(a_session(at=START + MINUTE))
    assert (await engine.sessions.erase_some(erasure, 10)) == ErasureBatch(1, complete=True)
    assert is_live(await engine.get(session.session_id), START + MINUTE)
    assert await users_there(engine) == ["ann"]
    assert await locked_user(engine) == LockedUser(START + SECOND)
    await engine.sweep("ann", START + 2 * MINUTE)
    assert not is_live(await engine.get(session.session_id), START + 2 * MINUTE)


async def test_a_sweep_during_an_erasure_goes_on_shutting_out_what_it_shut_out(
    engine: Engine,
) -> None:
    erasure = await begin(engine, time=START + SECOND)
    await engine.sweep("ann", START + MINUTE)
    assert (await engine.sessions.erase_some(erasure, 10)).complete
    assert await users_there(engine) == []
    assert await count(engine, sweeps.name) == 0
    assert await locked_user(engine) == LockedUser(START + MINUTE)


async def test_a_second_erasure_takes_over_from_the_first(engine: Engine) -> None:
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
    assert await users_there(engine) == []
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


async def test_sign_ins_that_race_an_erasure_live_in_the_user_it_left(engine: Engine) -> None:
    """Whichever comes first: what was added before is gone, and what was added after has a user."""
    for _ in range(10):

        async def sign_in() -> None:
            async def work(transaction: Transaction) -> None:
                standing = await transaction.lock_user("ann")
                if standing.swept_time is None:  # begun before
                    await transaction.insert_session(a_session())

            await engine.sessions.transact(work)

        await asyncio.gather(*(sign_in() for _ in range(4)), erase(engine), erase(engine))
        assert await engine.upkeep.pending_erasures(10) == []
        assert await count(engine, sessions.name) == 0
        assert (await locked_user(engine)).swept_time == START
        await engine.execute(*(table.delete() for table in (users, erasures)))
