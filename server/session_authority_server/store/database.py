import asyncio
import contextlib
import logging
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
from session_authority_server.store.engine.dialect import COMMIT_IN_DOUBT, Dialect
from session_authority_server.store.engine.hot_read import HotRead
from session_authority_server.store.engine.limits import connect, within_time_limit
from session_authority_server.store.engine.sqlite import FileReplaced, Sqlite, SqliteFile

T = TypeVar("T")
# How often a transaction is run that fails only because of others.
TRIES = 3
# How long transactions under way are waited for at the end.
CLOSE_SECONDS = 10.0
# How long a connection is waited for where no caller waits: several hosts may have to be tried.
START_SECONDS = 15.0

# PostgreSQL: a serialization failure, a deadlock, and a key that somebody else has inserted meanwhile. SQLite has one
# writer, which loses no race.
_LOST_RACES = frozenset(("40001", "40P01", "23505"))

_READING, _WRITING = "reading", "writing"

_log = logging.getLogger(__name__)


class RetryTransaction(Exception):
    """What a transaction read has changed meanwhile; its work is to be run anew, from the beginning."""


class Database:
    """The engines behind the store: one to read and one to write."""

    def __init__(self, dialect: Dialect, file: SqliteFile | None = None) -> None:
        """Take the engine's dialect, and this process's claim to the file if the database is one."""
        self.dialect = dialect
        self._file = file
        self._reader = dialect.reader()
        self._writer = dialect.writer()
        self._hot_read = HotRead(dialect)
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, *dialect.driver_errors)
        self._running: set[asyncio.Task[Any]] = set()
        # How often in a row each has failed.
        self._failures = {_READING: 0, _WRITING: 0}

    @classmethod
    def sqlite(
        cls, path: Path, *, read_only: bool = False, file: SqliteFile | None = None
    ) -> "Database":
        """Open a SQLite file.

        Args:
            path: Where it is.
            read_only: Whether this process can neither change the file nor block others.
            file: This process's claim to the file. A commit is answered only if the file is still in its place.
        """
        return cls(Sqlite(path, read_only=read_only, file=file), file)

    @classmethod
    def postgresql(cls, url: str) -> "Database":
        """Open a PostgreSQL database."""
        # Its driver is installed only where it is used.
        from session_authority_server.store.engine.postgresql import PostgreSQL

        return cls(PostgreSQL(url))

    def displaced(self) -> FileReplaced | None:
        """Return an error if the database's file was moved, removed or replaced, so that commits may be lost."""
        return None if self._file is None else self._file.displaced()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run reads that need no transaction."""
        try:
            try:
                read = await self._uncancelled(self._read(work))
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # It may have broken while it was idle.
                read = await self._uncancelled(self._read(work))
        except SQLAlchemyError as error:
            raise self._unavailable(_READING, error) from error
        if self._failures[_READING]:
            self._log_recovery(_READING)
        return read

    async def read_hot(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Read sessions by id for validation; swept ones come without their sweep."""
        try:
            found = await self._uncancelled(self._hot_read(session_ids))
        except self._errors as error:
            raise self._unavailable(_READING, error) from error
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

        Whoever is cancelled while waiting for a turn leaves no trace; once begun, the transaction runs to
        its end whatever becomes of its caller. Work that fails only because of what others do is run again.

        Args:
            work: What to do; it may raise `RetryTransaction`.
            committed: Given the result once that is committed, whatever became of the caller.
            settled: Given the result of work that was not rolled back, as soon as its commit has succeeded or
                failed, and whether it is certain that it has succeeded. Else it may have, or may yet.
            limited: Whether a caller waits for it, so that it must not take long.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                connection = await connect(self._writer, None if limited else START_SECONDS)
                result = await self._uncancelled(
                    self._commit(connection, work, committed, settled, limited=limited)
                )
            except (SQLAlchemyError, RetryTransaction) as error:
                again = isinstance(error, RetryTransaction) or _lost_race(error)
                if not tries_left or not again:
                    raise self._unavailable(_WRITING, error) from error
            else:
                if self._failures[_WRITING]:
                    self._log_recovery(_WRITING)
                return result
        raise AssertionError("unreachable")

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run synchronous work in a transaction and commit it: for what has no asynchronous form."""
        return await self.write(lambda connection: connection.run_sync(work), limited=False)

    async def run_alone(self, statement: str, seconds: float) -> None:
        """Run a statement that no transaction can hold, within a time."""

        async def work() -> None:
            async with contextlib.aclosing(await connect(self._reader)) as connection:
                running = connection.exec_driver_sql(statement)
                await self._limited(connection, running, seconds)

        try:
            await self._uncancelled(work())
        except SQLAlchemyError as error:
            raise self._unavailable(_WRITING, error) from error

    async def close(self) -> None:
        """Wait for what is under way, but not for ever, then let go of every connection."""
        if self._running:
            _, hanging = await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            if hanging:
                _log.error("%d calls to the store were given up at the end", len(hanging))
        await self._hot_read.close()
        await self._reader.dispose()
        await self._writer.dispose()

    def _unavailable(self, doing: str, error: Exception) -> StoreUnavailable:
        self._failures[doing] += 1
        _log.error("the store failed while %s: %s", doing, reason_of(error))
        return StoreUnavailable(doing)

    def _log_recovery(self, doing: str) -> None:
        """Tell the end of an outage, which a single failure is none of."""
        failures, self._failures[doing] = self._failures[doing], 0
        if failures > 1:
            _log.warning("%s works again, after %d failures", doing, failures)

    async def _uncancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work that goes on whatever becomes of whoever waits for it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._discard_finished)
        return await asyncio.shield(task)

    def _discard_finished(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone; whether or not, it isn't lost on the loop

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with contextlib.aclosing(await connect(self._reader)) as connection:
            return await self._limited(connection, work(connection))

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
            # Kept with the connection, which a failed transaction before this one may have shared.
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
            if committed is not None:  # here, where nobody can be given the connection before
                committed(result)
            return result

    async def _limited(
        self, connection: AsyncConnection, work: Awaitable[T], seconds: float | None = None
    ) -> T:
        driver = (await connection.get_raw_connection()).driver_connection
        return await within_time_limit(self.dialect, driver, work, seconds)


def _lost_race(error: Exception) -> bool:
    """Say whether a transaction failed only because of others, with nothing done."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) in _LOST_RACES


async def _transaction(
    connection: AsyncConnection,
    work: Callable[[AsyncConnection], Awaitable[T]],
    settled: Callable[[T, bool], None] | None,
) -> T:
    try:
        begun = await connection.begin()
    except DBAPIError as error:
        # It had broken while it was idle, and nothing has been done.
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
    """Return why the store failed, in one line that quotes nothing of what was stored.

    SQLAlchemy's words would quote the statement's parameters, and PostgreSQL's details a whole row.
    """
    if isinstance(error, RetryTransaction):
        error = error.__cause__ or error
    cause = getattr(error, "orig", None) or error
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    if primary:
        return f"{primary} ({getattr(cause, 'sqlstate', None)})"
    if isinstance(cause, NoConnection):
        return "no connection, or no answer on it, was to be had in time"
    if isinstance(cause, SQLAlchemyError | RetryTransaction):
        return type(cause).__name__
    return " ".join(str(cause).split())  # drivers spread it over lines
