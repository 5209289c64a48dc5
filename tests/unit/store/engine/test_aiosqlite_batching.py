"""The cursor that replaces SQLAlchemy's cursor for aiosqlite."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from session_authority_server.store.engine.sqlite import Sqlite

metadata = MetaData()
parents = Table("parents", metadata, Column("id", Integer, primary_key=True), Column("name", Text))
_CHILDREN = "CREATE TABLE children (parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = Sqlite(tmp_path / "one.sqlite").writer()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text(_CHILDREN))
    yield engine
    await engine.dispose()


async def test_a_statement_takes_one_trip_to_the_drivers_thread_and_sqlalchemys_cursor_more(
    writer: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This test fails once SQLAlchemy itself needs only one trip. Then delete `aiosqlite_batching`."""
    trips = 0
    run: Any = aiosqlite.Connection._execute

    async def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal trips
        trips += 1
        return await run(self, *arguments, **named)

    async def trips_of_a_select(engine: AsyncEngine) -> int:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))  # begins the transaction
            before = trips
            assert (await connection.execute(text("SELECT 1"))).all() == [(1,)]
            return trips - before

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    stock = create_async_engine(writer.url)
    assert await trips_of_a_select(writer) == 1
    assert await trips_of_a_select(stock) > 1
    await stock.dispose()


async def test_a_statement_returns_its_whole_result(writer: AsyncEngine) -> None:
    async with writer.begin() as connection:
        added = insert(parents).returning(parents.c.id)
        many = [{"name": f"p{number}"} for number in range(2_500)]
        assert len((await connection.execute(added, many)).all()) == 2_500
        one = await connection.execute(insert(parents), {"name": "last"})
        assert one.inserted_primary_key == (2_501,)
        renamed = update(parents).where(parents.c.id > 2_400).values(name="x")
        assert (await connection.execute(renamed)).rowcount == 101
        returned = await connection.execute(renamed.returning(parents.c.id))
        assert len(returned.all()) == 101
        found: Any = await connection.execute(select(parents).where(parents.c.name == "unknown"))
        assert (list(found.keys()), found.all()) == (["id", "name"], [])
        found = await connection.execute(select(parents.c.id).order_by(parents.c.id))
        assert (found.fetchone(), found.fetchmany(), found.fetchmany(2)) == (
            (1,),
            [(2,)],
            [(3,), (4,)],
        )
        removed = text("DELETE FROM parents WHERE id = :id")
        assert (await connection.execute(removed, [{"id": 1}, {"id": 2}])).rowcount == 2


async def test_after_a_failed_commit_the_next_transaction_starts_empty(
    writer: AsyncEngine,
) -> None:
    async with writer.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute_fetchall("PRAGMA foreign_keys = ON")
    with pytest.raises(IntegrityError):
        async with writer.begin() as connection:
            await connection.execute(text("INSERT INTO children VALUES (7)"))
    async with writer.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM children"))).scalar() == 0
        await connection.execute(insert(parents), {"name": "next"})
    async with writer.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(parents))).scalar() == 1


async def test_a_transaction_that_was_left_open_is_rolled_back(writer: AsyncEngine) -> None:
    connection = await writer.connect()
    await connection.exec_driver_sql("INSERT INTO parents (name) VALUES ('open')")
    await connection.close()
    async with writer.begin() as connection:
        assert (await connection.execute(select(parents))).all() == []


async def test_errors_are_those_of_the_database(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        with pytest.raises(OperationalError, match="no such table"):
            await connection.execute(text("SELECT * FROM nowhere"))
        with pytest.raises(OperationalError, match="no such table"):
            await connection.execute(text("DELETE FROM nowhere WHERE id = :id"), [{"id": 1}] * 2)


async def test_a_closed_connection_is_reported_as_lost(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.close()
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(select(parents))
        assert caught.value.connection_invalidated
    async with writer.connect() as connection:
        assert (await connection.execute(select(parents))).all() == []
