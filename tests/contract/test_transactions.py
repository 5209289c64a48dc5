"""Transactions: their results, their rollback, and their locks."""

import asyncio
from uuid import UUID, uuid4

import pytest

from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.ports.store import LockedUser, Transaction
from tests.contract.transacting import REVOKED
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    stored_fields,
)


class Refused(Exception):
    pass


async def locked_user(engine: Engine, user_id: str) -> LockedUser:
    return await engine.sessions.transact(lambda transaction: transaction.lock_user(user_id))


async def read_attempt(engine: Engine, retry_hash: bytes) -> AnsweredAttempt | None:
    return await engine.sessions.transact(lambda work: work.read_attempt(retry_hash))


async def write_attempt(engine: Engine, attempt: AnsweredAttempt) -> None:
    await engine.sessions.transact(lambda work: work.write_attempt(attempt))


# All or nothing


async def test_a_transaction_returns_the_result_of_its_work(engine: Engine) -> None:
    async def work(_transaction: Transaction) -> str:
        return "done"

    assert await engine.sessions.transact(work) == "done"


async def test_work_that_raises_is_rolled_back(engine: Engine) -> None:
    kept, fresh = a_session(), a_session()
    attempt = AnsweredAttempt(b"h" * 32, b"p" * 32, kept.session_id, b"s" * 32, START + MINUTE)
    await engine.add(kept)

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("somebody new")
        await transaction.insert_session(fresh)
        await transaction.end_session(kept.session_id, REVOKED)
        await transaction.sweep_user("ann", Sweep(START, InitiatingEntity.USER))
        await transaction.write_attempt(attempt)
        raise Refused

    with pytest.raises(Refused):
        await engine.sessions.transact(work)
    assert set(await engine.sessions.read_sessions(ids([kept, fresh]))) == {kept.session_id}
    assert is_live(await engine.get(kept.session_id), START)
    assert await read_attempt(engine, attempt.retry_hash) is None
    assert await engine.upkeep.pending_sweeps(10) == []
    assert await locked_user(engine, "ann") == LockedUser(None)


async def test_a_transaction_works_after_one_that_raised(engine: Engine) -> None:
    async def work(_transaction: Transaction) -> None:
        raise Refused

    for _ in range(3):
        with pytest.raises(Refused):
            await engine.sessions.transact(work)
    session = a_session()
    await engine.add(session)
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_only_the_transaction_itself_sees_its_uncommitted_changes(engine: Engine) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> tuple[Session | None, dict[UUID, Session]]:
        await transaction.lock_user("ann")
        await transaction.insert_session(session)
        outside = await engine.sessions.read_sessions([session.session_id])
        return await transaction.read_session(session.session_id), outside

    inside, outside = await engine.sessions.transact(work)
    assert stored_fields(inside) == stored_fields(session)
    assert outside == {}


async def test_a_commit_completes_although_its_caller_was_cancelled(engine: Engine) -> None:
    session = a_session()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        begun.set()
        await go_on.wait()
        await transaction.insert_session(session)

    caller = asyncio.create_task(engine.sessions.transact(work))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await locked_user(engine, "ann")  # waits until the cancelled caller's transaction has ended
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_closing_waits_for_a_commit_whose_caller_was_cancelled(engine: Engine) -> None:
    session = a_session()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        begun.set()
        await go_on.wait()
        await transaction.insert_session(session)

    caller = asyncio.create_task(engine.sessions.transact(work))
    await begun.wait()
    caller.cancel()
    closing = asyncio.create_task(engine.database.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    go_on.set()
    await closing
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_a_caller_cancelled_at_any_point_leaves_the_store_working(
    engine: Engine,
) -> None:
    for delay in (0, 0.0005, 0.001, 0.002, 0.004):
        callers = [asyncio.create_task(engine.add(a_session())) for _ in range(4)]
        await asyncio.sleep(delay)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    session = a_session("bob")
    await engine.add(session)
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


# Users


async def test_a_user_who_was_never_swept_has_no_sweep_time(engine: Engine) -> None:
    assert await locked_user(engine, "ann") == LockedUser(None)
    assert await locked_user(engine, "ann") == LockedUser(None)


async def test_a_users_sweep_time_is_the_latest_of_their_own_and_global_sweeps(
    engine: Engine,
) -> None:
    await engine.sweep("ann", START + SECOND)
    assert await locked_user(engine, "ann") == LockedUser(START + SECOND)
    assert await locked_user(engine, "bob") == LockedUser(None)
    await engine.sweep_everybody(START + 2 * SECOND)
    assert await locked_user(engine, "ann") == LockedUser(START + 2 * SECOND)
    assert await locked_user(engine, "bob") == LockedUser(START + 2 * SECOND)
    await engine.sweep("ann", START + 3 * SECOND)
    assert await locked_user(engine, "ann") == LockedUser(START + 3 * SECOND)


async def test_a_transaction_waits_while_another_one_locks_the_same_user(engine: Engine) -> None:
    inside = 0

    async def work(transaction: Transaction) -> None:
        nonlocal inside
        await transaction.lock_user("ann")
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.001)
        inside -= 1

    await asyncio.gather(*(engine.sessions.transact(work) for _ in range(20)))


async def test_fifty_concurrent_sign_ins_keep_a_limit_exactly(engine: Engine) -> None:
    limit = 7

    async def sign_in() -> bool:
        session = a_session()

        async def work(transaction: Transaction) -> bool:
            await transaction.lock_user("ann")
            if await transaction.live_over_limit("ann", START, keep=limit - 1):
                return False
            await transaction.insert_session(session)
            return True

        return await engine.sessions.transact(work)

    admitted = await asyncio.gather(*(sign_in() for _ in range(50)))
    assert admitted.count(True) == limit
    assert len(await engine.sessions.list_live("ann", START, None, 100)) == limit


# Repeatable calls


async def test_a_stored_attempt_is_read_back(engine: Engine) -> None:
    attempt = AnsweredAttempt(bytes(range(32)), b"\0" * 32, uuid4(), b"\xff" * 32, START + MINUTE)
    assert await read_attempt(engine, attempt.retry_hash) is None
    await write_attempt(engine, attempt)
    assert await read_attempt(engine, attempt.retry_hash) == attempt


async def test_a_later_attempt_with_the_same_hash_replaces_the_earlier(
    engine: Engine,
) -> None:
    first = AnsweredAttempt(b"h" * 32, b"1" * 32, uuid4(), b"1" * 32, START)
    second = AnsweredAttempt(b"h" * 32, b"2" * 32, uuid4(), b"2" * 32, START + DAY)
    await write_attempt(engine, first)
    await write_attempt(engine, second)
    assert await read_attempt(engine, b"h" * 32) == second
