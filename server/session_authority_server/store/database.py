import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Session
from session_authority_server.observability.metrics import (
    DATABASE_CONNECTIONS,
    DATABASE_CONNECTIONS_LIMIT,
    DATABASE_DURATION,
    DATABASE_ERRORS,
)
from session_authority_server.store.engine.dialect import COMMIT_IN_DOUBT, Dialect
from session_authority_server.store.engine.hot_read import HotRead
from session_authority_server.store.engine.limits import READERS, connect, within_time_limit
from session_authority_server.store.engine.sqlite import FileReplaced, Sqlite, SqliteFile
from session_authority_server.store.fence import Fence

T = TypeVar("T")
# How often a transaction is tried if it conflicts with other transactions.
TRIES = 3
# How long `close` waits for transactions in flight.
CLOSE_SECONDS = 10.0
# The longest wait for a connection of work without time limits. The driver may have to try several hosts.
START_SECONDS = 15.0

# PostgreSQL's SQLSTATEs for a serialization failure, a deadlock, and a key that another transaction inserted first.
# SQLite runs one writer at a time, so its transactions never conflict.
_CONFLICTS = frozenset(("40001", "40P01", "23505"))

# The key in a connection's `info` once the fence has found no lost ending in the connection's database.
_PASSED = "passed the fence"
_READING, _WRITING = "reading", "writing"
# The values of the label "operation" in metrics.
_VALIDATE, _READ, _WRITE = ("validate",), ("read",), ("write",)

_log = logging.getLogger(__name__)


class RetryTransaction(Exception):
    """Another transaction changed the rows that this one read. The work must run again from the start."""


class Database:
    """A database with one engine for reads and one for writes.

    Attributes:
        fence: Checks each new connection, and marks endings; None without a state directory.
    """

    def __init__(self, dialect: Dialect, file: SqliteFile | None = None) -> None:
        """Create the engines without connecting.

        Args:
            dialect: The dialect of the engines.
            file: This process's claim to the file, for SQLite.
        """
        self.dialect = dialect
        self.fence: Fence | None = None
        self._file = file
        self._reader = dialect.reader()
        self._writer = dialect.writer()
        self._hot_read = HotRead(dialect, self._pass_fence)
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, *dialect.driver_errors)
        self._running: set[asyncio.Task[Any]] = set()
        # Consecutive failures of each kind.
        self._failures = {_READING: 0, _WRITING: 0}

    @classmethod
    def sqlite(
        cls, path: Path, *, read_only: bool = False, file: SqliteFile | None = None
    ) -> "Database":
        """Open a SQLite file.

        Args:
            path: The path of the file.
            read_only: Whether to open the file so that this process can neither change it nor block others.
            file: This process's claim to the file. A commit succeeds only if the file is still in its place.
        """
        return cls(Sqlite(path, read_only=read_only, file=file), file)

    @classmethod
    def postgresql(cls, url: str) -> "Database":
        """Open a PostgreSQL database."""
        # The driver is an optional dependency.
        from session_authority_server.store.engine.postgresql import PostgreSQL

        return cls(PostgreSQL(url))

    def export_pools(self) -> None:
        """Export how many connections of each pool are in use, in the metrics of this process."""
        DATABASE_CONNECTIONS.set_function(lambda: self._hot_read.running, *_VALIDATE)
        DATABASE_CONNECTIONS_LIMIT.set(READERS, *_VALIDATE)
        for operation, engine in ((_READ, self._reader), (_WRITE, self._writer)):
            pool: Any = engine.pool  # Declared as the base class `Pool`, but a queue pool.
            DATABASE_CONNECTIONS.set_function(pool.checkedout, *operation)
            DATABASE_CONNECTIONS_LIMIT.set(pool.size(), *operation)

    def displaced(self) -> FileReplaced | None:
        """Return an error if the database's file was moved, removed or replaced. Commits may then be lost."""
        return None if self._file is None else self._file.displaced()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run reads outside a transaction. Retry once if the connection was broken.

        Raises:
            StoreUnavailable: If the store failed.
        """
        began = time.perf_counter()
        try:
            try:
                read = await self._uncancelled(self._read(work))
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The connection may have broken while it was idle.
                read = await self._uncancelled(self._read(work))
        except SQLAlchemyError as error:
            raise self._unavailable(_READING, error, _READ) from error
        finally:
            DATABASE_DURATION.observe(_READ, time.perf_counter() - began)
        if self._failures[_READING]:
            self._log_recovery(_READING)
        return read

    async def read_hot(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Read sessions by id for validation. The field `sweep` stays None until `rows.with_sweeps` sets it.

        Raises:
            StoreUnavailable: If the store failed.
        """
        began = time.perf_counter()
        try:
            found = await self._uncancelled(self._hot_read(session_ids))
        except self._errors as error:
            raise self._unavailable(_READING, error, _VALIDATE) from error
        finally:
            DATABASE_DURATION.observe(_VALIDATE, time.perf_counter() - began)
        if self._failures[_READING]:
            self._log_recovery(_READING)
        return found

    async def write(
        self,
        work: Callable[[AsyncConnection], Awaitable[T]],
        committed: Callable[[T], None] | None = None,
        *,
        settled: Callable[[T, bool], None] | None = None,
        limited: bool = True,
    ) -> T:
        """Run work in a transaction and commit it.

        A caller that is cancelled before the transaction begins changes nothing. After that, the transaction runs to
        its end even if the caller is cancelled. Work that conflicts with other transactions runs again.

        Args:
            work: The work. It may raise `RetryTransaction`.
            committed: Receives the result once it is committed, even if the caller was cancelled.
            settled: Receives the result of work that was not rolled back, and whether its commit certainly
                succeeded. If not certain, the commit may have succeeded or may yet succeed.
            limited: Whether the time limits for calls apply.

        Raises:
            StoreUnavailable: If the store failed or the outcome of the commit is unknown.
        """
        began = time.perf_counter()
        for tries_left in reversed(range(TRIES)):
            try:
                connection = await connect(self._writer, None if limited else START_SECONDS)
                result = await self._uncancelled(
                    self._commit(connection, work, committed, settled, limited=limited)
                )
            except (SQLAlchemyError, RetryTransaction) as error:
                again = isinstance(error, RetryTransaction) or _is_conflict(error)
                if not tries_left or not again:
                    DATABASE_DURATION.observe(_WRITE, time.perf_counter() - began)
                    raise self._unavailable(_WRITING, error, _WRITE) from error
            else:
                DATABASE_DURATION.observe(_WRITE, time.perf_counter() - began)
                if self._failures[_WRITING]:
                    self._log_recovery(_WRITING)
                return result
        raise AssertionError("unreachable")

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run work with a synchronous interface in a transaction and commit it.

        Raises:
            StoreUnavailable: If the store failed.
        """
        return await self.write(lambda connection: connection.run_sync(work), limited=False)

    async def run_alone(self, statement: str, seconds: float) -> None:
        """Run a statement that PostgreSQL does not allow in a transaction, with a time limit.

        Raises:
            StoreUnavailable: If the store failed or the time is over.
        """

        async def work() -> None:
            async with contextlib.aclosing(await connect(self._reader)) as connection:
                running = connection.exec_driver_sql(statement)
                await self._limited(connection, running, seconds)

        try:
            await self._uncancelled(work())
        except SQLAlchemyError as error:
            raise self._unavailable(_WRITING, error, _WRITE) from error

    async def close(self) -> None:
        """Wait for the calls in flight, for CLOSE_SECONDS at most, then close every connection."""
        if self._running:
            _, hanging = await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            if hanging:
                _log.error("%d calls to the store were cancelled at shutdown", len(hanging))
        await self._hot_read.close()
        await self._reader.dispose()
        await self._writer.dispose()

    def _unavailable(self, doing: str, error: Exception, operation: tuple[str]) -> StoreUnavailable:
        DATABASE_ERRORS.inc(*operation)
        self._failures[doing] += 1
        _log.error("the store failed while %s: %s", doing, reason_of(error))
        return StoreUnavailable(doing)

    def _log_recovery(self, doing: str) -> None:
        """Reset the count of failures. Log the recovery after two or more consecutive failures."""
        failures, self._failures[doing] = self._failures[doing], 0
        if failures > 1:
            _log.warning("%s works again, after %d failures", doing, failures)

    async def _uncancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work that continues even if its caller is cancelled."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._discard_finished)
        return await asyncio.shield(task)

    def _discard_finished(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # Marks the exception as retrieved, because the caller may have been cancelled.

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with contextlib.aclosing(await connect(self._reader)) as connection:
            await self._pass_fence(connection)
            return await self._limited(connection, work(connection))

    async def _pass_fence(self, connection: AsyncConnection) -> None:
        """Let the fence check a new connection. If endings are lost, every call gets `Fence.lost` as its answer."""
        raw = connection.sync_connection
        if self.fence is None or raw is None or _PASSED in raw.info:
            return
        if await self._limited(connection, self.fence.check(connection)):
            raw.info[_PASSED] = True
        await connection.rollback()

    async def _commit(
        self,
        connection: AsyncConnection,
        work: Callable[[AsyncConnection], Awaitable[T]],
        committed: Callable[[T], None] | None,
        settled: Callable[[T, bool], None] | None,
        *,
        limited: bool,
    ) -> T:
        async with contextlib.aclosing(connection):
            await self._pass_fence(connection)
            # An earlier transaction on this connection may have failed and left COMMIT_IN_DOUBT set.
            info = connection.sync_connection.info if connection.sync_connection else {}
            info.pop(COMMIT_IN_DOUBT, None)
            transaction = _transaction(connection, work, settled)
            if limited:
                result = await self._limited(connection, transaction)
            else:
                result = await transaction
            if info.pop(COMMIT_IN_DOUBT, False):
                _log.error("a commit was not confirmed by the synchronous standby")
                raise StoreUnavailable("writing")
            if (displaced := self.displaced()) is not None:
                _log.error("a commit may be lost: %s", displaced)
                raise StoreUnavailable("writing") from displaced
            # `committed` runs before the connection is released, and so before the next transaction on it.
            if committed is not None:
                committed(result)
            return result

    async def _limited(
        self, connection: AsyncConnection, work: Awaitable[T], seconds: float | None = None
    ) -> T:
        driver = (await connection.get_raw_connection()).driver_connection
        return await within_time_limit(self.dialect, driver, work, seconds)


def _is_conflict(error: Exception) -> bool:
    """Return whether a transaction was rolled back because of a conflict with others."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) in _CONFLICTS


async def _transaction(
    connection: AsyncConnection,
    work: Callable[[AsyncConnection], Awaitable[T]],
    settled: Callable[[T, bool], None] | None,
) -> T:
    try:
        begun = await connection.begin()
    except DBAPIError as error:
        # The connection broke while it was idle, so the transaction has done nothing yet.
        if error.connection_invalidated:
            raise RetryTransaction from error
        raise
    try:
        result = await work(connection)
    except BaseException:
        await begun.rollback()
        raise
    certain = False
    try:
        await begun.commit()
        certain = True
    finally:
        if settled is not None:
            settled(result, certain)
    return result


def reason_of(error: BaseException | None) -> str:
    """Return why the store failed, in one line without stored data.

    The full messages could contain data: SQLAlchemy's quote parameters, and PostgreSQL's details quote whole rows.
    """
    if isinstance(error, RetryTransaction):
        error = error.__cause__ or error
    cause = getattr(error, "orig", None) or error
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    if primary:
        return f"{primary} ({getattr(cause, 'sqlstate', None)})"
    if isinstance(cause, NoConnection):
        return "no connection to the database was available in time, or it did not answer in time"
    if isinstance(cause, SQLAlchemyError | RetryTransaction):
        return type(cause).__name__
    return " ".join(str(cause).split())  # Drivers split their messages over several lines.
