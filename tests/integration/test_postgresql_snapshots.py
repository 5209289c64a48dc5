"""Statements of the worker and of sign-ins, on rows that are locked or changed concurrently."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Select, select, text
from sqlalchemy.dialects import postgresql as postgresql_dialect

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import Touch, TouchesSkipped, Transaction
from session_authority_server.store.engine import postgresql
from session_authority_workers.expire import Expire
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    numbered,
    opened,
    stored_fields,
)

NOW = START + 2 * DAY
# Pauses the worker's statement at its first session. Its snapshot is taken and the other rows are unlocked.
PAUSE = """
CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.user_id = 'first' THEN PERFORM pg_advisory_xact_lock(1); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER pause BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION pause();
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with opened("postgresql", tmp_path) as fresh:
        yield fresh


async def test_a_worker_does_not_end_a_session_that_just_ended_all_others(
    engine: Engine,
) -> None:
    now = START + 2 * DAY
    first = a_session("first", last_active=now, idle_timeout=DAY, session_id=numbered(1))
    current, other = (a_session("ann", last_active=now, idle_timeout=DAY) for _ in range(2))
    await engine.fill([first], START)
    await engine.fill([current, other], START + SECOND)
    async with await psycopg.AsyncConnection.connect(engine.url, autocommit=True) as admin:
        await admin.execute(PAUSE.encode())
        # Force the row-by-row plan that the planner uses for batches much smaller than the table.
        for method in ("hashjoin", "mergejoin", "seqscan", "sort", "bitmapscan"):
            name = admin.info.dbname
            await admin.execute(f"ALTER DATABASE {name} SET enable_{method} = off".encode())
        await engine.database.close()
    async with await psycopg.AsyncConnection.connect(engine.url, autocommit=True) as admin:
        await admin.execute("SELECT pg_advisory_lock(1)")
        working = asyncio.create_task(engine.upkeep.end_overdue(now, 10, named=True))
        while (await (await admin.execute(WAITING)).fetchall())[0][0] == 0:
            assert not working.done(), working
            await asyncio.sleep(0.005)
        await engine.sweep("ann", now, InitiatingEntity.USER, exempt=current.session_id)
        await admin.execute("SELECT pg_advisory_unlock(1)")
        batch = await working
    assert current.session_id not in {each.session_id for each in batch.ended}
    found = stored_fields(await engine.get(current.session_id))
    assert found is not None
    assert found["ending"] is None


async def test_a_sign_in_is_retried_if_a_global_sweep_commits_first(engine: Engine) -> None:
    seen = []

    async def sign_in(transaction: Transaction) -> Session:
        standing = await transaction.lock_user("ann")
        seen.append(standing.swept_time)
        if standing.swept_time is None:
            await engine.sweep_everybody(START)
        return await transaction.insert_session(a_session("ann"))

    session = await engine.sessions.transact(sign_in)
    assert seen == [None, START]
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_a_swept_session_that_is_locked_is_skipped_and_reported(
    engine: Engine,
) -> None:
    locked, free = await engine.add(a_session("ann"), a_session("ann"))
    await engine.sweep("ann", START)
    [sweep] = await engine.upkeep.pending_sweeps(10)
    async with await psycopg.AsyncConnection.connect(engine.url) as other:
        await other.execute(
            "SELECT FROM sessions WHERE session_id = %s FOR UPDATE", (locked.session_id,)
        )
        batch = await engine.upkeep.end_swept(sweep, NOW, None, 10)
        assert [each.session_id for each in batch.ended] == [free.session_id]
        assert batch.left == 1
        assert await Expire(engine.upkeep, ManualClock(NOW))() == 0
        assert await engine.upkeep.pending_sweeps(10) == [sweep]
    assert await Expire(engine.upkeep, ManualClock(NOW))() == 1
    assert await engine.upkeep.pending_sweeps(10) == []


LOCK = "SELECT FROM sessions WHERE session_id = %s FOR UPDATE"
RENEW = (
    "UPDATE sessions SET last_active_time = %s, check_time = check_time + interval '1 minute' "
    "WHERE session_id = %s"
)
SOON_SECONDS = 2


async def test_a_worker_skips_locked_sessions_until_its_next_run(
    engine: Engine,
) -> None:
    sessions = [a_session(idle_timeout=SECOND) for _ in range(5)]
    now = START + MINUTE
    async with _locking(engine, sessions) as (locked, let_go):
        async with asyncio.timeout(SOON_SECONDS):
            batch = await engine.upkeep.end_overdue(now, 10, named=True)
        assert {each.session_id for each in batch.ended} == set(ids(sessions)) - {locked}
        assert batch.examined == 4
        assert await engine.upkeep.oldest_overdue(now) == START + SECOND
        await let_go()
        batch = await engine.upkeep.end_overdue(now, 10, named=True)
        assert {each.session_id for each in batch.ended} == {locked}


async def test_a_worker_waits_until_a_concurrent_renewal_commits(
    engine: Engine,
) -> None:
    sessions = [a_session(idle_timeout=SECOND) for _ in range(3)]
    now = START + MINUTE
    await engine.add(*sessions)
    renewed = min(ids(sessions))
    async with await psycopg.AsyncConnection.connect(engine.url) as somebody:
        await somebody.execute(RENEW, (now, renewed))
        batch = await engine.upkeep.end_overdue(now, 10, named=True)
        assert {each.session_id for each in batch.ended} == set(ids(sessions)) - {renewed}
        assert not (await engine.upkeep.end_overdue(now, 10, named=True)).examined
        await somebody.commit()
    assert not (await engine.upkeep.end_overdue(now, 10, named=True)).examined
    assert await engine.upkeep.count_overdue(now + SECOND, 10) == 1
    batch = await engine.upkeep.end_overdue(now + SECOND, 10, named=True)
    assert [each.session_id for each in batch.ended] == [renewed]


async def test_a_lock_does_not_block_a_worker_that_needs_no_write(engine: Engine) -> None:
    sessions = [a_session(lifetime=SECOND) for _ in range(5)]
    async with _locking(engine, sessions):
        async with asyncio.timeout(SOON_SECONDS):
            batch = await engine.upkeep.end_overdue(START + MINUTE, 10, named=True)
        assert {each.session_id for each in batch.ended} == set(ids(sessions))


async def test_a_second_worker_learns_that_another_is_busy_and_does_not_wait(
    engine: Engine,
) -> None:
    sessions = [a_session(lifetime=SECOND) for _ in range(5)]
    now = START + MINUTE
    await engine.add(*sessions)
    async with await psycopg.AsyncConnection.connect(engine.url) as other:
        await other.execute("SELECT FROM upkeep FOR UPDATE")
        async with asyncio.timeout(SOON_SECONDS):
            batch = await engine.upkeep.end_overdue(now, 10, named=True)
            assert (batch.busy, batch.examined, list(batch.ended)) == (True, 0, [])
            assert await Expire(engine.upkeep, ManualClock(now))() == 0
            assert await engine.upkeep.count_overdue(now, 10) == 5
    assert await Expire(engine.upkeep, ManualClock(now))() == 5


def _sql(statement: Select[Any]) -> str:
    dialect = postgresql_dialect.dialect()  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


async def test_a_worker_that_disappears_in_a_step_blocks_others_for_seconds_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql._AS_WORKER, "idle_in_transaction_session_timeout", "300ms")
    now = START + MINUTE
    await engine.add(a_session(lifetime=SECOND))
    gone = await psycopg.AsyncConnection.connect(engine.url)
    try:
        await gone.execute(_sql(select(engine.database.dialect.worker_settings())).encode())
        await gone.execute("SELECT FROM upkeep FOR UPDATE")
        assert (await engine.upkeep.end_overdue(now, 10)).busy
        async with asyncio.timeout(60):
            while (await engine.upkeep.end_overdue(now, 10)).busy:
                await asyncio.sleep(0.2)
    finally:
        await gone.close()
    assert await engine.upkeep.count_overdue(now, 10) == 0


async def test_an_activity_of_a_locked_session_delays_no_other_activity(
    engine: Engine,
) -> None:
    sessions = [a_session() for _ in range(5)]
    moment = START + SECOND
    touches = [Touch(each, moment, None) for each in ids(sessions)]
    async with _locking(engine, sessions) as (locked, let_go):
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(TouchesSkipped) as failure:
                await engine.sessions.touch(touches, lambda: moment)
        assert [touch.session_id for touch in failure.value.skipped] == [locked]
        assert (await engine.get(locked)).last_active_time == START
        await let_go()
        assert await engine.sessions.touch(touches, lambda: moment) == 1


@asynccontextmanager
async def _locking(
    engine: Engine, sessions: Sequence[Session]
) -> AsyncIterator[tuple[UUID, Callable[[], Awaitable[None]]]]:
    """Add sessions, lock one, and return its id and a function that unlocks it."""
    await engine.add(*sessions)
    async with await psycopg.AsyncConnection.connect(engine.url) as somebody:
        await somebody.execute(LOCK, (sessions[2].session_id,))
        yield sessions[2].session_id, somebody.commit


async def test_a_sign_in_beyond_the_limit_keeps_an_ending_that_was_committed_meanwhile(
    engine: Engine,
) -> None:
    [old] = await engine.add(a_session("ann"))
    signed_out = Ending(START + SECOND, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    beyond = Ending(START + MINUTE, EndReason.LIMIT, InitiatingEntity.POLICY)
    async with await psycopg.AsyncConnection.connect(engine.url) as other:
        await other.execute(
            "UPDATE sessions SET end_time = %s, end_reason = 1, initiating_entity = 2",
            (signed_out.time,),
        )

        async def make_room(transaction: Transaction) -> Sequence[UUID]:
            return await transaction.end_live_over_limit("ann", START + MINUTE, 0, beyond)

        making_room = asyncio.create_task(engine.sessions.transact(make_room))
        await asyncio.sleep(0.2)
        assert not making_room.done()
        await other.commit()
        assert await making_room == []
    assert (await engine.get(old.session_id)).ending == signed_out


async def test_an_error_quotes_no_stored_value(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.execute(text("ALTER TABLE sessions ADD CHECK (user_id != 'some-private-user')"))
    with pytest.raises(StoreUnavailable):
        await engine.add(a_session("some-private-user"))
    assert "violates check constraint" in caplog.text
    assert "some-private-user" not in caplog.text


async def test_idle_connections_that_broke_are_replaced_without_a_failed_call(
    engine: Engine,
) -> None:
    [session] = await engine.add(a_session("ann"))
    for _ in range(2):
        await engine.get(session.session_id)
        assert len(await engine.sessions.list_live("ann", START, None, 10)) == 1
        async with await psycopg.AsyncConnection.connect(engine.url, autocommit=True) as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
    await engine.get(session.session_id)
    assert len(await engine.sessions.list_live("ann", START, None, 10)) == 1
    await engine.add(a_session("bob"))


async def test_concurrent_reads_on_breaking_connections_never_hang(engine: Engine) -> None:
    [session] = await engine.add(a_session("ann"))
    async with await psycopg.AsyncConnection.connect(engine.url, autocommit=True) as admin:
        for _ in range(10):
            reads = [asyncio.create_task(engine.get(session.session_id)) for _ in range(8)]
            await asyncio.sleep(0.001)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
            reads += [asyncio.create_task(engine.get(session.session_id)) for _ in range(8)]
            async with asyncio.timeout(SOON_SECONDS):
                await asyncio.gather(*reads, return_exceptions=True)
    async with asyncio.timeout(SOON_SECONDS):
        four = [engine.get(session.session_id) for _ in range(16)]
        assert len(await asyncio.gather(*four)) == 16
