import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.dialect import (
    SQLITE_READERS,
    WRITER_WAIT_SECONDS,
    fetch_all,
)
from session_authority_server.store.tables import sessions

# How many decoded rows are remembered; each takes about 2 KiB.
DECODED_LIMIT = 20_000

_STATEMENT = rows.select_sessions().where(
    sessions.c.session_id.in_(bindparam("ids", expanding=True))
)


class HotRead:
    """Reads sessions by id for validation: the one statement that runs thousands of times a second.

    SQLAlchemy writes the statement, once for each size, and says how to decode its columns; the driver then
    runs it without SQLAlchemy in between, on connections that are kept, with one change of threads where
    SQLAlchemy's cursor needs four (docs/performance.md).
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idle: list[tuple[AsyncConnection, Any]] = []
        self._places = asyncio.Semaphore(SQLITE_READERS)
        self._statements: dict[int, str] = {}
        self._decoders: list[Callable[[Any], Any] | None] = [
            column.type.result_processor(engine.dialect, None)
            for column in _STATEMENT.selected_columns
        ]
        encode = sessions.c.session_id.type.bind_processor(engine.dialect)
        # Decoding a row is a pure function of it, so remembering it can't make an answer stale: whatever
        # changes about a session changes its row.
        self._session = lru_cache(DECODED_LIMIT)(self._decode)
        self._encode: Callable[[UUID], Any] = encode or (lambda session_id: session_id)

    async def __call__(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Return those of the sessions that exist, swept ones without their sweep.

        Raises:
            SQLAlchemyError: If no connection can be had.
            Exception: Whatever the driver raises.
        """
        if not session_ids:
            return []
        size = 1 << (len(session_ids) - 1).bit_length()  # few sizes, few statements
        ids = [self._encode(session_id) for session_id in session_ids]
        ids += ids[-1:] * (size - len(ids))
        await self._take_place()
        try:
            held = self._idle.pop() if self._idle else await self._connect()
            try:
                found = await fetch_all(held[1], self._statement(size), ids)
            except BaseException:
                # Whatever state it is in, nobody else must get it.
                await asyncio.shield(self._discard(held[0]))
                raise
            self._idle.append(held)
        finally:
            self._places.release()
        return [self._session(row) for row in found]

    async def close(self) -> None:
        """Let go of the kept connections."""
        while self._idle:
            await self._idle.pop()[0].close()

    async def _take_place(self) -> None:
        # The pool can't make anybody wait for a connection that is kept here.
        try:
            async with asyncio.timeout(WRITER_WAIT_SECONDS if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise NoConnection("no connection came free in time") from None

    async def _connect(self) -> tuple[AsyncConnection, Any]:
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        return connection, raw.driver_connection

    async def _discard(self, connection: AsyncConnection) -> None:
        await connection.invalidate()
        await connection.close()

    def _decode(self, row: tuple[Any, ...]) -> Session:
        return rows.session(
            [
                value if decode is None else decode(value)
                for decode, value in zip(self._decoders, row, strict=True)
            ]
        )

    def _statement(self, size: int) -> str:
        text = self._statements.get(size)
        if text is None:
            compiled = _STATEMENT.params(ids=[None] * size).compile(
                dialect=self._engine.dialect, compile_kwargs={"render_postcompile": True}
            )
            text = self._statements[size] = str(compiled)
        return text
