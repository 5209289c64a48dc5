"""A SQLite database that is missing, broken, busy or overloaded."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.ports.store import Touch, Transaction
from session_authority_server.store import rows
from session_authority_server.store.database import Database
from session_authority_server.store.engine import hot_read, limits, sqlite
from session_authority_server.store.engine.sqlite import Sqlite
from session_authority_server.store.schema import migrate, read_version
from tests.support.engines import DAY, SECOND, START, Engine, a_session, opened, over, stored_fields

SOON_SECONDS = 15


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with opened("sqlite", tmp_path) as fresh:
        yield fresh


@contextmanager
def impatient() -> Iterator[None]:
    """Wait only a moment for a connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WAIT_SECONDS", 0.05)
        yield


async def assert_unavailable(database: Database) -> None:
    engine = over(database)
    try:
        for call in (
            lambda: engine.sessions.read_sessions([uuid4()]),
            lambda: engine.add(a_session()),
            lambda: engine.sessions.touch([Touch(uuid4(), START, None)], lambda: START),
            lambda: engine.upkeep.end_overdue(START, 10),
        ):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(call(), SOON_SECONDS)
    finally:
        await asyncio.wait_for(database.close(), SOON_SECONDS)
        await threads_ended()


async def threads_ended() -> None:
    """Wait for the driver's threads, one per connection, so that no thread outlives the test's loop."""
    async with asyncio.timeout(SOON_SECONDS):
        while any("_connection_worker_thread" in each.name for each in threading.enumerate()):
            await asyncio.sleep(0.001)


# Missing and broken


async def test_a_file_with_garbage_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "authority.db"
    path.write_bytes(b"garbage " * 10_000)
    await assert_unavailable(Database.sqlite(path))


async def test_a_folder_is_unavailable(tmp_path: Path) -> None:
    await assert_unavailable(Database.sqlite(tmp_path))


async def test_a_file_in_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    await assert_unavailable(Database.sqlite(tmp_path / "missing" / "authority.db"))


async def test_an_empty_file_is_unavailable(tmp_path: Path) -> None:
    await assert_unavailable(Database.sqlite(tmp_path / "authority.db"))


async def test_a_store_whose_file_is_overwritten_never_invents_sessions(
    tmp_path: Path,
) -> None:
    async with opened("sqlite", tmp_path) as engine:
        session = a_session()
        await engine.add(session)
        await engine.execute(text("PRAGMA user_version = 1"))
        for file in tmp_path.iterdir():
            file.write_bytes(b"\xa5" * 65_536)
        for _ in range(5):
            try:
                found = await asyncio.wait_for(engine.get(session.session_id), SOON_SECONDS)
            except StoreUnavailable:
                continue
            assert stored_fields(found) == stored_fields(session)


async def test_a_schema_can_be_made_once_and_read(tmp_path: Path) -> None:
    database = Database.sqlite(tmp_path / "authority.db")
    try:
        before = await read_version(database)
        assert before.current is None
        assert not before.is_current
        await migrate(database)
        await migrate(database)
        after = await read_version(database)
        assert after.is_current
        assert after.current == before.wanted
    finally:
        await database.close()


async def test_a_schema_of_a_newer_release_is_recognised(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        await engine.execute(text("UPDATE alembic_version SET version_num = 'zz'"))
        version = await read_version(engine.database)
        assert not version.is_current
        assert "newer release" in version.remedy
        await engine.execute(text("DELETE FROM alembic_version"))
        assert "session-authority migrate" in (await read_version(engine.database)).remedy


# Busy


@pytest.fixture
def locked_elsewhere(tmp_path: Path, engine: Engine) -> Iterator[Path]:
    """Hold the write lock of the file, as another process would."""
    path = tmp_path / "authority.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield path


async def test_the_wait_for_a_locked_file_is_limited(
    locked_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_MILLISECONDS", 50)
    engine = over(Database.sqlite(locked_elsewhere))
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(engine.add(a_session()), SOON_SECONDS)
    assert await engine.sessions.read_sessions([uuid4()]) == {}  # readers need no lock
    await engine.database.close()


async def test_the_wait_of_a_writer_is_limited(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        held, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_transaction: Transaction) -> None:
            held.set()
            await go_on.wait()

        holder = asyncio.create_task(engine.sessions.transact(slow))
        await held.wait()
        with impatient():
            waiting = await asyncio.gather(
                *(engine.add(a_session()) for _ in range(20)), return_exceptions=True
            )
        assert {type(outcome) for outcome in waiting} == {StoreUnavailable}
        go_on.set()
        await holder
        await engine.add(a_session())


async def test_the_wait_of_a_reader_is_limited(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        all_held, go_on = asyncio.Barrier(limits.READERS + 1), asyncio.Event()

        async def slow(_connection: object) -> None:
            await all_held.wait()
            await go_on.wait()

        holders = [asyncio.create_task(engine.database.read(slow)) for _ in range(limits.READERS)]
        await all_held.wait()
        with impatient(), pytest.raises(StoreUnavailable):
            await engine.sessions.list_live("ann", START, None, 10)
        go_on.set()
        await asyncio.gather(*holders)
        assert await engine.sessions.list_live("ann", START, None, 10) == []


async def test_the_wait_of_a_validation_is_limited(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_held, go_on = asyncio.Barrier(limits.READERS + 1), asyncio.Event()
    fetch_packed = Sqlite.fetch_packed

    async def slow(*args: Any) -> Any:
        if not go_on.is_set():
            await all_held.wait()
            await go_on.wait()
        return await fetch_packed(*args)

    monkeypatch.setattr(Sqlite, "fetch_packed", slow)
    monkeypatch.setattr(hot_read, "WAIT_SECONDS", 0.05)
    holders = [
        asyncio.create_task(engine.sessions.read_sessions([uuid4()])) for _ in range(limits.READERS)
    ]
    await all_held.wait()
    with pytest.raises(StoreUnavailable):
        await engine.sessions.read_sessions([uuid4()])
    go_on.set()
    assert await asyncio.gather(*holders) == [{}] * limits.READERS
    assert await engine.sessions.read_sessions([uuid4()]) == {}


async def test_a_call_cancelled_while_it_waits_for_the_writer_has_no_effect(engine: Engine) -> None:
    go_on = asyncio.Event()
    session = a_session()
    ran = False

    async def slow(_transaction: Transaction) -> None:
        await go_on.wait()

    async def never(_transaction: Transaction) -> None:
        nonlocal ran
        ran = True

    holder = asyncio.create_task(engine.sessions.transact(slow))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(engine.sessions.transact(never))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await holder
    await engine.add(session)
    assert not ran


async def test_readers_do_not_wait_for_a_writer(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    go_on = asyncio.Event()

    async def slow(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        await go_on.wait()

    holder = asyncio.create_task(engine.sessions.transact(slow))
    await asyncio.sleep(0.01)
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)
    go_on.set()
    await holder


async def test_every_connection_has_durable_settings(engine: Engine) -> None:
    async def settings(connection: object) -> list[object]:
        return [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()  # type: ignore[attr-defined]
            for name in ("journal_mode", "synchronous")
        ]

    assert await engine.database.write(settings) == ["wal", 2]
    assert await engine.database.read(settings) == ["wal", 2]


async def test_an_ending_that_is_recorded_while_the_list_is_read_is_not_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of ended sessions takes two reads. The worker runs between them."""
    session = a_session(lifetime=SECOND)
    await engine.add(session)
    now = START + DAY
    read, worked = rows.read, False

    async def read_and_work(*args: object) -> object:
        nonlocal worked
        found = await read(*args)  # type: ignore[arg-type]
        if not worked:
            worked = True
            await engine.upkeep.end_overdue(now, 10)
        return found

    monkeypatch.setattr(rows, "read", read_and_work)
    listed = await engine.sessions.list_ended("ann", now, None, 10)
    assert [each.session_id for each in listed] == [session.session_id]
    assert listed[0].expire_time == START + timedelta(seconds=1)


async def test_recovery_is_logged_once_after_two_or_more_failures(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def rename(old: str, new: str) -> None:
        await engine.database.run_sync(
            lambda connection: connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")
        )

    async def reads() -> None:
        await engine.sessions.read_sessions([uuid4()])

    def recoveries() -> list[str]:
        return [each.getMessage() for each in caplog.records if "again" in each.getMessage()]

    for failures, lines in ((1, 0), (3, 1)):
        await rename("sessions", "hidden")
        for _ in range(failures):
            with pytest.raises(StoreUnavailable):
                await reads()
        await rename("hidden", "sessions")
        await reads()
        await reads()
        assert len(recoveries()) == lines
    assert recoveries() == ["reading works again, after 3 failures"]
