import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Session
from session_authority_server.store import dialect
from session_authority_server.store.connecting import connected
from session_authority_server.store.hot_read import HotRead

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Database:
    """The engines behind the store: one to read and one to write."""

    def __init__(self, reader: AsyncEngine, validator: AsyncEngine, writer: AsyncEngine) -> None:
        self._reader = reader
        self._validator = validator
        self._writer = writer
        self._hot_read = HotRead(validator)
        self._writing: set[asyncio.Task[object]] = set()

    @classmethod
    def sqlite(cls, path: Path) -> "Database":
        """Open a SQLite file."""
        return cls(
            dialect.sqlite_reader(path), dialect.sqlite_reader(path), dialect.sqlite_writer(path)
        )

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run reads that need no transaction."""
        try:
            async with contextlib.aclosing(await connected(self._reader)) as connection:
                return await work(connection)
        except SQLAlchemyError as error:
            raise _unavailable("reading", error) from error

    async def read_hot(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Read sessions by id for validation; swept ones come without their sweep."""
        try:
            return await self._hot_read(session_ids)
        except (SQLAlchemyError, dialect.DriverError) as error:
            raise _unavailable("reading", error) from error

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run work in a transaction and commit it.

        Whoever is cancelled while waiting for a turn leaves no trace; once begun, the transaction runs to
        its end whatever becomes of its caller.
        """
        try:
            connection = await connected(self._writer)
        except SQLAlchemyError as error:
            raise _unavailable("writing", error) from error
        task = asyncio.create_task(self._commit(connection, work))
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run synchronous work in a transaction and commit it: for what has no asynchronous form."""
        return await self.write(lambda connection: connection.run_sync(work))

    async def close(self) -> None:
        """Wait for transactions under way, then let go of every connection."""
        while self._writing:
            await asyncio.wait(self._writing)
        await self._hot_read.close()
        await self._validator.dispose()
        await self._reader.dispose()
        await self._writer.dispose()

    async def _commit(
        self, connection: AsyncConnection, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        try:
            async with contextlib.aclosing(connection), connection.begin():
                return await work(connection)
        except SQLAlchemyError as error:
            raise _unavailable("writing", error) from error

    def _written(self, task: "asyncio.Task[object]") -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone; a failure was logged where it happened


def _unavailable(doing: str, error: Exception) -> StoreUnavailable:
    # Only the driver's own words: SQLAlchemy's would quote the statement's parameters.
    orig = getattr(error, "orig", None)
    known = not isinstance(error, SQLAlchemyError)
    reason = orig or (error if known else type(error).__name__)
    _log.error("the store failed while %s: %s", doing, reason)
    return StoreUnavailable(doing)
