"""What the engines do differently."""

import contextlib
import sqlite3
from collections.abc import Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    event,
    func,
    literal_column,
    null,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from session_authority_server.domain.changes import Changes
from session_authority_server.store import notification
from session_authority_server.store.engine import aiosqlite_batching
from session_authority_server.store.sqlite_file import FileReplaced, SqliteFile

# How long a caller waits for a connection to come free. With the time that the work itself may take
# (`time_limit.WORK_SECONDS`), it is less than the deadline that callers have by default.
WAIT_SECONDS = 2.0
_BUSY_TIMEOUT_MILLISECONDS = 1_500
# Whoever waits longer is behind somebody who went away with a lock, and keeps a connection from others.
_LOCK_TIMEOUT_MILLISECONDS = 1_000
_STATEMENT_TIMEOUT_MILLISECONDS = 1_900
_CANCEL_TIMEOUT_SECONDS = 0.5
# Of each connection: what some ten thousand sessions in use are spread over in a large file.
_CACHE_KIBIBYTES = 65_536
_PRAGMAS_READING = (f"busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}", "temp_store = MEMORY")
_PRAGMAS = (
    *_PRAGMAS_READING,
    "journal_mode = WAL",
    "synchronous = FULL",
    f"cache_size = -{_CACHE_KIBIBYTES}",
)
_MIGRATION_LOCK = 0x5E551013_A07408  # any number that other programs are not likely to use
_AS_WORKER = {
    "synchronous_commit": "off",
    "idle_in_transaction_session_timeout": "5s",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}
_RECORD_OID = 2249
# A serialization failure, a deadlock, and a key that somebody else has inserted meanwhile.
_LOST_RACES = frozenset(("40001", "40P01", "23505"))
_ANY_POSTGRESQL = "postgresql+psycopg://"
_NOTIFY = text(
    "SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload"
).bindparams(channel=notification.CHANNEL)
# A query keeps its snapshot until the next statement of its transaction. Another connection that works CONCURRENTLY
# would wait for the snapshot to go. This statement takes none.
LET_GO_OF_SNAPSHOT = "SET LOCAL client_min_messages = warning"
COMMIT_IN_DOUBT = "commit in doubt"


class Dialect(Protocol):
    """One engine's ways.

    Attributes:
        readers: How many connections read, of each of the two kinds (validation and all else).
        takes_arrays: Whether a parameter can be an array.
        tell_time: The statement that asks for the engine's time; None where its clock is this machine's.
        driver_errors: What the driver raises where SQLAlchemy is not in between.
    """

    readers: int
    takes_arrays: bool
    tell_time: str | None
    driver_errors: tuple[type[Exception], ...]

    def reader(self) -> AsyncEngine:
        """Return an engine for single reads outside transactions, several at once."""
        ...

    def writer(self) -> AsyncEngine:
        """Return an engine for transactions."""
        ...

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        """Return the condition that a column is one of the parameter `ids`."""
        ...

    def packed(self, statement: Select[Any]) -> Select[Any]:
        """Return a SELECT of the same rows, each in the form that is cheapest to fetch."""
        ...

    def size(self, ids: int) -> int:
        """Return how many ids a statement by so many ids is written for."""
        ...

    async def fetch_packed(
        self, driver: Any, statement: str, ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        """Run a SELECT of packed rows by ids on a driver's own connection."""
        ...

    def unpacked(self, row: Any) -> Sequence[Any]:
        """Return the columns of a packed row, as the driver gives them."""
        ...

    def id_text(self, column: ColumnElement[UUID]) -> ColumnElement[str]:
        """Return an id as text that `UUID` reads."""
        ...

    def moment_text(self, column: ColumnElement[datetime]) -> ColumnElement[str]:
        """Return a moment as text: its microseconds since 1970."""
        ...

    def joined(self, column: ColumnElement[str | None]) -> ColumnElement[str | None]:
        """Return a text of many rows as one, a line each, without those that are null."""
        ...

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        """Have other processes told of changes when, and only if, the present transaction is committed."""
        ...

    def insert_if_absent(self, table: Table) -> Insert:
        """Return an INSERT that does nothing where a row of the same key exists."""
        ...

    def is_only_migrator(self, connection: Connection) -> bool:
        """Say whether no other transaction migrates the schema; if so, none does until this one ends."""
        ...

    def displaced(self) -> Exception | None:
        """Return an error if the database's file was moved, removed or replaced, so that commits may be lost."""
        ...

    def as_worker(self) -> ColumnElement[Any]:
        """Return what, selected, fits a transaction to a worker who goes through an index in its order.

        Where the engine can, it is answered before it is safe, is given up by the engine if the worker is
        gone, and holds to the index even where the engine knows nothing of the table's contents.
        """
        ...

    def may_run_again(self, error: Exception) -> bool:
        """Say whether a transaction failed only because of others, with nothing done."""
        ...

    async def interrupt(self, driver: Any) -> None:
        """Ask the engine to give up what it is doing for a driver's connection."""
        ...

    def cut_off(self, driver: Any) -> None:
        """Have whoever waits for the engine on a driver's connection wait no more."""
        ...


class Sqlite:
    """A file; one writer at a time."""

    readers = 4
    takes_arrays = False
    tell_time: str | None = None
    driver_errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(
        self, path: Path, *, read_only: bool = False, file: SqliteFile | None = None
    ) -> None:
        self.read_only = read_only
        self._file = file
        self.url = URL.create("sqlite+aiosqlite", database=str(path))
        if read_only:
            self.url = URL.create(
                "sqlite+aiosqlite",
                database=path.absolute().as_uri(),
                query={"mode": "ro", "uri": "true"},
            )

    def reader(self) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=self.readers,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
        )
        event.listen(engine.sync_engine, "do_connect", aiosqlite_batching.connect)
        event.listen(engine.sync_engine, "connect", self._prepare)
        return engine

    def writer(self) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            pool_reset_on_return=None,
            pool_size=1,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
        )
        event.listen(engine.sync_engine, "do_connect", aiosqlite_batching.connect)
        event.listen(engine.sync_engine, "reset", aiosqlite_batching.reset)
        event.listen(engine.sync_engine, "connect", self._prepare)

        @event.listens_for(engine.sync_engine, "begin")
        def wait_before_reading(connection: Any) -> None:
            # So that no transaction works on what another changes meanwhile. Who can only read takes no lock by it.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def _prepare(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        try:
            self._check_place()
            _set_pragmas(connection, _PRAGMAS_READING if self.read_only else _PRAGMAS)
        except BaseException:
            connection.close()  # it never gets into the pool, so nobody else would
            raise

    def _check_place(self) -> None:
        if (displaced := self.displaced()) is not None:
            raise sqlite3.OperationalError(str(displaced))

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        return column.in_(bindparam("ids", expanding=True))

    def packed(self, statement: Select[Any]) -> Select[Any]:
        return statement

    def size(self, ids: int) -> int:
        return 1 << (ids - 1).bit_length()  # so that a few statements serve every number of ids

    async def fetch_packed(
        self, driver: Any, statement: str, ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        raw_ids = [each.bytes for each in ids]
        raw_ids += raw_ids[-1:] * (self.size(len(ids)) - len(ids))
        return list(await driver.execute_fetchall(statement, raw_ids))

    def unpacked(self, row: Any) -> Sequence[Any]:
        columns: Sequence[Any] = row
        return columns

    def id_text(self, column: ColumnElement[UUID]) -> ColumnElement[str]:
        return func.hex(column, type_=Text)

    def moment_text(self, column: ColumnElement[datetime]) -> ColumnElement[str]:
        return cast(column, Text)

    def joined(self, column: ColumnElement[str | None]) -> ColumnElement[str | None]:
        return func.group_concat(column, literal_column("char(10)"), type_=Text)

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        pass  # there are no others

    def insert_if_absent(self, table: Table) -> Insert:
        return sqlite.insert(table).on_conflict_do_nothing()

    def is_only_migrator(self, connection: Connection) -> bool:
        return True  # there is one writer

    def displaced(self) -> Exception | None:
        if self._file is None or self._file.is_in_place():
            return None
        return FileReplaced(self._file.path)

    def as_worker(self) -> ColumnElement[Any]:
        return null()

    def may_run_again(self, error: Exception) -> bool:
        return False  # there is one writer

    async def interrupt(self, driver: Any) -> None:
        await driver.interrupt()

    def cut_off(self, driver: Any) -> None:
        pass  # it is in this process: the interrupt is always heard


class PostgreSQL:
    """A server, always asked on its primary; as many writers as there are processes.

    Raises:
        ValueError: If the address can't be read.
    """

    readers = 4
    writers = 8
    takes_arrays = True
    tell_time: str | None = "SELECT clock_timestamp()"

    def __init__(self, url: str) -> None:
        import psycopg
        from psycopg.types.composite import RecordBinaryLoader

        from session_authority_server.store import postgresql_session

        # Without a connection: times are then in UTC, and text is in UTF-8 (`postgresql_session.verify`).
        self._records = RecordBinaryLoader(_RECORD_OID)
        self._cut_off = postgresql_session.cut_off
        self._prepare = postgresql_session.prepare
        self._standby_answered = psycopg.errors.ReadOnlySqlTransaction
        self.driver_errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self.url = url
        self._connect_args = postgresql_session.connect_arguments(url)

    def reader(self) -> AsyncEngine:
        engine = create_async_engine(
            _ANY_POSTGRESQL,
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=self.readers,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
            connect_args=self._connect_args,
        )
        event.listen(engine.sync_engine, "connect", self._prepare)
        return engine

    def writer(self) -> AsyncEngine:
        engine = create_async_engine(
            _ANY_POSTGRESQL,
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # whatever the default of the role or the database is
            pool_size=self.writers,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
            connect_args=self._connect_args,
        )
        event.listen(engine.sync_engine, "connect", self._prepare)
        event.listen(engine.sync_engine, "connect", _watch_for_doubtful_commits)

        @event.listens_for(engine.sync_engine, "begin")
        def bound(connection: Any) -> None:
            # For this transaction alone: a pooler may give the connection to somebody else after it.
            connection.exec_driver_sql(
                f"SELECT set_config('lock_timeout', '{_LOCK_TIMEOUT_MILLISECONDS}', true), "
                f"set_config('statement_timeout', '{_STATEMENT_TIMEOUT_MILLISECONDS}', true), "
                # Or a commit that is in doubt would go unsaid.
                "set_config('client_min_messages', 'warning', true), "
                # Or the names of types would be quoted when the schema is looked at.
                "set_config('quote_all_identifiers', 'off', true)"
            )

        return engine

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        return column == any_(bindparam("ids", type_=ARRAY(Uuid())))

    def packed(self, statement: Select[Any]) -> Select[Any]:
        # As PostgreSQL sends a row in binary: psycopg need not decode what is remembered. A pooler may have moved on
        # to a standby, whose rows are out of date.
        row = func.record_send(func.row(*statement.selected_columns), type_=LargeBinary)
        return statement.with_only_columns(func.pg_is_in_recovery(), func.array_agg(row))

    def size(self, ids: int) -> int:
        return 1  # the ids are one parameter

    async def fetch_packed(
        self, driver: Any, statement: str, ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        cursor = driver.cursor(binary=True)
        await cursor.execute(statement, {"ids": list(ids)})  # psycopg sends a tuple as a record
        in_recovery, packed = await cursor.fetchone()
        if in_recovery:
            raise self._standby_answered("a standby answered instead of the primary")
        return packed or ()

    def unpacked(self, row: Any) -> Sequence[Any]:
        columns: Sequence[Any] = self._records.load(row)
        return columns

    def id_text(self, column: ColumnElement[UUID]) -> ColumnElement[str]:
        return cast(column, Text)

    def moment_text(self, column: ColumnElement[datetime]) -> ColumnElement[str]:
        return cast(cast(func.extract("epoch", column) * 1_000_000, BigInteger), Text)

    def joined(self, column: ColumnElement[str | None]) -> ColumnElement[str | None]:
        return func.string_agg(column, literal_column("chr(10)"), type_=Text)

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        await connection.execute(_NOTIFY, {"payloads": list(notification.payloads(changes))})

    def insert_if_absent(self, table: Table) -> Insert:
        return postgresql.insert(table).on_conflict_do_nothing()

    def is_only_migrator(self, connection: Connection) -> bool:
        # A migration may take its time; but a table that it waits to lock is one that everybody else waits
        # for behind it, and so it must not wait for long. It is idle while it builds indexes beside itself.
        connection.exec_driver_sql(
            "SELECT set_config('statement_timeout', '0', true), "
            "set_config('idle_in_transaction_session_timeout', '0', true)"
        )
        taking = f"SELECT pg_try_advisory_xact_lock({_MIGRATION_LOCK})"
        return bool(connection.exec_driver_sql(taking).scalar_one())

    def displaced(self) -> Exception | None:
        return None

    def as_worker(self) -> ColumnElement[Any]:
        return func.row(*(func.set_config(name, value, True) for name, value in _AS_WORKER.items()))

    def may_run_again(self, error: Exception) -> bool:
        return getattr(getattr(error, "orig", error), "sqlstate", None) in _LOST_RACES

    async def interrupt(self, driver: Any) -> None:
        with contextlib.suppress(*self.driver_errors):
            await driver.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)

    def cut_off(self, driver: Any) -> None:
        self._cut_off(driver)


def _watch_for_doubtful_commits(connection: Any, record: Any) -> None:
    """Note where a commit was answered without the synchronous standby's word.

    PostgreSQL then commits on the primary alone and says so in a warning, not in an error.
    """

    def note(diagnostic: Any) -> None:
        # The message may be in any language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            record.info[COMMIT_IN_DOUBT] = True

    connection.driver_connection.add_notice_handler(note)


def _set_pragmas(connection: Any, pragmas: Sequence[str]) -> None:
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
