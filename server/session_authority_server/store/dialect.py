"""What the engines do differently."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Insert, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

SQLITE_READERS = 4
WRITER_WAIT_SECONDS = 4.0
_BUSY_TIMEOUT_MILLISECONDS = 4_000
_CACHE_KIBIBYTES = 16_384

DriverError = sqlite3.Error


def sqlite_reader(path: Path) -> AsyncEngine:
    """Return an engine for single reads outside transactions, several at once."""
    engine = create_async_engine(
        _sqlite_url(path),
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
        pool_size=SQLITE_READERS,
        max_overflow=0,
        pool_timeout=WRITER_WAIT_SECONDS,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def sqlite_writer(path: Path) -> AsyncEngine:
    """Return an engine for transactions, one at a time.

    Each begins with BEGIN IMMEDIATE: it waits for its turn before it reads, and so never works on what
    another changes meanwhile.
    """
    engine = create_async_engine(
        _sqlite_url(path),
        pool_size=1,
        max_overflow=0,
        pool_timeout=WRITER_WAIT_SECONDS,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)

    @event.listens_for(engine.sync_engine, "begin")
    def begin_immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def fetch_all(driver: Any, statement: str, parameters: Sequence[Any]) -> list[Any]:
    """Run one SELECT on a driver's own connection and return all its rows.

    Raises:
        DriverError: If it failed.
    """
    return list(await driver.execute_fetchall(statement, parameters))


def insert_if_absent(connection: AsyncConnection, table: Table) -> Insert:
    """Return an INSERT that does nothing where a row of the same key exists."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _sqlite_url(path: Path) -> URL:
    return URL.create("sqlite+aiosqlite", database=str(path))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    try:
        _set_pragmas(connection)
    except BaseException:
        connection.close()  # it never gets into the pool, so nobody else would
        raise


def _set_pragmas(connection: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "temp_store = MEMORY",
        f"cache_size = -{_CACHE_KIBIBYTES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
