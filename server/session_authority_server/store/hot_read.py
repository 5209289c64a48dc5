import asyncio
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, bindparam, func, literal_column, select
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.connecting import connected
from session_authority_server.store.dialect import (
    SQLITE_READERS,
    WRITER_WAIT_SECONDS,
    fetch_all,
)
from session_authority_server.store.tables import sessions

# How many sessions are remembered at least, and at most twice as many; each takes about 2 KiB.
REMEMBERED_LIMIT = 10_000

# All of a session that can change without its secret changing, and the secret's hash in place of the rest.
_CHANGING = (
    "session_id",
    "secret_hash",
    "last_active_time",
    "last_ip_address",
    "user_epoch",
    "global_epoch",
    "current_user_epoch",
    "current_global_epoch",
    "end_time",
    # These change with the secret only, but whether a session lives must never be remembered.
    "expire_time",
    "idle_timeout",
)


def _by_id(statement: Select[Any]) -> Select[Any]:
    return statement.where(sessions.c.session_id.in_(bindparam("ids", expanding=True)))


def _fingerprint() -> ColumnElement[str]:
    """Return all that may change of a session as one text, and as SQL literals, so that none runs into another."""
    columns = rows.select_sessions().selected_columns
    literals = [func.quote(columns[name], type_=Text) for name in _CHANGING]
    comma = literal_column("','", Text)
    return reduce(lambda text, more: text + comma + more, literals)


# One row for all sessions: sqlite3 lets go of the interpreter's lock for every row, and each time it takes the
# lock again costs two changes of threads.
_SHORT = _by_id(select(func.group_concat(_fingerprint(), literal_column("char(10)"))))
_WHOLE = _by_id(rows.select_sessions().add_columns(_fingerprint()))
_ID_DIGITS = slice(2, 34)  # of X'...', the id as the fingerprint begins with it


class HotRead:
    """Reads sessions by id for validation: the one statement that runs thousands of times a second.

    SQLAlchemy writes the statement, once for each size, and says how to decode its columns; the driver then
    runs it without SQLAlchemy in between, on connections that are kept, with one change of threads where
    SQLAlchemy's cursor needs four.

    Of each session, only what can change is read every time. The decoded session is remembered under all of
    that, as read: a pure function of the row, which a change of the row can't make stale. Whatever is not
    remembered under the very values just read is read whole. (docs/performance.md)
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idle: list[tuple[AsyncConnection, Any]] = []
        self._places = asyncio.Semaphore(SQLITE_READERS)
        self._short = _Prepared(_SHORT, engine)
        self._whole = _Prepared(_WHOLE, engine)
        self._remembered = _Remembered(REMEMBERED_LIMIT)
        encode = sessions.c.session_id.type.bind_processor(engine.dialect)
        self._encode: Callable[[UUID], Any] = encode or (lambda session_id: session_id)

    async def __call__(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Return those of the sessions that exist, swept ones without their sweep.

        Raises:
            SQLAlchemyError: If no connection can be had.
            Exception: Whatever the driver raises.
        """
        if not session_ids:
            return []
        ids = [self._encode(session_id) for session_id in session_ids]
        await self._take_place()
        try:
            held = self._idle.pop() if self._idle else await self._connect()
            try:
                found = await self._read(held[1], ids)
            except BaseException:
                # Whatever state it is in, nobody else must get it.
                await asyncio.shield(self._discard(held[0]))
                raise
            self._idle.append(held)
        finally:
            self._places.release()
        return found

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
        connection = await connected(self._engine)
        raw = await connection.get_raw_connection()
        return connection, raw.driver_connection

    async def _discard(self, connection: AsyncConnection) -> None:
        await connection.invalidate()
        await connection.close()

    async def _read(self, driver: Any, ids: Sequence[Any]) -> list[Session]:
        found, unknown = [], []
        ((fingerprints,),) = await self._short.fetch(driver, ids)
        for fingerprint in fingerprints.split("\n") if fingerprints else ():
            session = self._remembered.get(fingerprint)
            if session is None:
                unknown.append(bytes.fromhex(fingerprint[_ID_DIGITS]))
            else:
                found.append(session)
        if unknown:
            for row in await self._whole.fetch(driver, unknown):
                session = rows.session(self._whole.decode(row)[:-1])
                self._remembered.put(row[-1], session)
                found.append(session)
        return found


class _Prepared:
    """A statement by ids, written once for each of a few sizes."""

    def __init__(self, statement: Select[Any], engine: AsyncEngine) -> None:
        self._statement = statement
        self._dialect = engine.dialect
        self._texts: dict[int, str] = {}
        self._decoders: list[Callable[[Any], Any] | None] = [
            column.type.result_processor(engine.dialect, None)
            for column in statement.selected_columns
        ]

    async def fetch(self, driver: Any, ids: Sequence[Any]) -> list[tuple[Any, ...]]:
        size = 1 << (len(ids) - 1).bit_length()
        text = self._texts.get(size)
        if text is None:
            compiled = self._statement.params(ids=[None] * size).compile(
                dialect=self._dialect, compile_kwargs={"render_postcompile": True}
            )
            text = self._texts[size] = str(compiled)
        padding = [ids[-1]] * (size - len(ids))
        return await fetch_all(driver, text, [*ids, *padding])

    def decode(self, row: tuple[Any, ...]) -> list[Any]:
        return [
            value if decode is None else decode(value)
            for decode, value in zip(self._decoders, row, strict=True)
        ]


class _Remembered:
    """Sessions by what was read of them. When a generation is full, what was not used in it is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[str, Session] = {}
        self._old: dict[str, Session] = {}

    def get(self, fingerprint: str) -> Session | None:
        session = self._young.get(fingerprint)
        if session is None:
            session = self._old.pop(fingerprint, None)
            if session is not None:
                self.put(fingerprint, session)
        return session

    def put(self, fingerprint: str, session: Session) -> None:
        if len(self._young) >= self._limit:
            self._young, self._old = {}, self._young
        self._young[fingerprint] = session
