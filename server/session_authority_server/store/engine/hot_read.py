import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.engine.limits import (
    READERS,
    WAIT_SECONDS,
    connect,
    within_time_limit,
)
from session_authority_server.store.tables import sessions

# How many decoded sessions are cached. Each takes about 4 KiB.
REMEMBERED_LIMIT = 20_000

# A read that fails sooner than this is retried once.
BROKEN_SECONDS = 0.25


class HotRead:
    """Reads sessions by id for validation. This statement runs thousands of times a second.

    SQLAlchemy builds the statement, but the driver runs it on connections that stay open. SQLAlchemy's own cursor
    costs several times as much.

    Every call reads complete rows from the database. The cache maps a row to its decoded session, so a cached session
    is never out of date. (docs/decisions/0003-hot-read.md)

    Attributes:
        running: The number of connections in use.
    """

    def __init__(
        self, dialect: Dialect, prepare: Callable[[AsyncConnection], Awaitable[None]]
    ) -> None:
        """Read from one engine.

        Args:
            dialect: The engine's dialect.
            prepare: Called with each new connection before its first use.
        """
        self._dialect = dialect
        self._prepare = prepare
        self._engine = dialect.reader()
        self._idle: list[tuple[AsyncConnection, Any]] = []
        self._places = asyncio.Semaphore(READERS)
        self.running = 0
        whole = rows.select_sessions()
        packed, self._unpack = dialect.packed(whole)
        self._statement = packed.where(dialect.by_ids(sessions.c.session_id))
        self._texts: dict[int, str] = {}
        self._decoders = [
            column.type.result_processor(self._engine.dialect, None)
            for column in whole.selected_columns
        ]
        self._session = lru_cache(REMEMBERED_LIMIT)(self._decode)

    async def __call__(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Return the sessions that exist. Their field `sweep` is always None (`rows.with_sweeps` sets it).

        Raises:
            SQLAlchemyError: If no connection is available.
            Exception: If the driver fails (`Dialect.driver_errors`).
        """
        if not session_ids:
            return []
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            read = await self._read_once(session_ids)
        except self._dialect.driver_errors:
            if loop.time() - started > BROKEN_SECONDS:
                raise
            # The connection probably broke while it was idle. If a new one fails too, the database has a problem.
            read = await self._read_once(session_ids)
        return [self._session(row) for row in read]

    async def _read_once(self, session_ids: Sequence[UUID]) -> Sequence[Hashable]:
        await self._take_place()
        self.running += 1
        try:
            held = self._idle.pop() if self._idle else await self._connect()
            try:
                reading = self._dialect.fetch_packed(held[1], self._text, session_ids)
                read = await within_time_limit(self._dialect, held[1], reading)
            except BaseException:
                # The state of the connection is unknown, and the idle connections may be broken too.
                broken, self._idle = [held, *self._idle], []
                await asyncio.shield(_discard(broken))
                raise
            self._idle.append(held)
        finally:
            self.running -= 1
            self._places.release()
        return read

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop()[0].close()
        await self._engine.dispose()

    async def _take_place(self) -> None:
        # A free connection goes to `_idle`, not back to the engine's pool. So callers wait for this semaphore.
        try:
            async with asyncio.timeout(WAIT_SECONDS if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise NoConnection("no connection became free in time") from None

    async def _connect(self) -> tuple[AsyncConnection, Any]:
        connection = await connect(self._engine)
        try:
            await self._prepare(connection)
        except BaseException:
            await asyncio.shield(connection.close())
            raise
        raw = await connection.get_raw_connection()
        return connection, raw.driver_connection

    def _text(self, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            compiled = self._statement.params(ids=[None] * size).compile(
                dialect=self._engine.dialect, compile_kwargs={"render_postcompile": True}
            )
            text = self._texts[size] = str(compiled)
        return text

    def _decode(self, row: Hashable) -> Session:
        values = self._unpack(row)
        return rows.session(
            [
                value if decode is None else decode(value)
                for decode, value in zip(self._decoders, values, strict=True)
            ]
        )


async def _discard(connections: Sequence[tuple[AsyncConnection, Any]]) -> None:
    for connection, _ in connections:
        await connection.invalidate()
        await connection.close()
