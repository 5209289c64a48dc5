import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.connecting import connected
from session_authority_server.store.dialect import WAIT_SECONDS, Dialect, Fingerprint
from session_authority_server.store.tables import sessions
from session_authority_server.store.time_limit import within_time_limit

T = TypeVar("T")
# How many sessions are remembered at least, and at most twice as many; each takes about 2 KiB.
REMEMBERED_LIMIT = 10_000

# A read that fails sooner than this is tried once more.
BROKEN_SECONDS = 0.25

# All of a session that can change without its secret changing, and the secret's hash in place of the rest.
_CHANGING = (
    "session_id",  # first: a fingerprint tells whose it is
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


class HotRead:
    """Reads sessions by id for validation: the one statement that runs thousands of times a second.

    SQLAlchemy writes the statement, once for each size, and says how to decode its columns; the driver then
    runs it without SQLAlchemy in between, on connections that are kept, with one change of threads where
    SQLAlchemy's cursor needs four.

    Of each session, what can change is read every time, and on PostgreSQL all of it, but not decoded. The decoded
    session is remembered under that, as read: a pure function of the row, which a change of the row can't
    make stale. Whatever is not remembered under the very values just read is decoded. (docs/performance.md)
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._engine = dialect.reader()
        self._idle: list[tuple[AsyncConnection, Any]] = []
        self._places = asyncio.Semaphore(dialect.readers)
        whole = rows.select_sessions()
        columns = whole.selected_columns
        told = columns if dialect.fingerprints_are_whole else [columns[name] for name in _CHANGING]
        fingerprint = dialect.fingerprint(list(told))
        self._short = _Prepared(dialect.gathered(fingerprint), self._engine, dialect)
        self._whole = _Prepared(whole.add_columns(fingerprint), self._engine, dialect)
        self._remembered = _Remembered(REMEMBERED_LIMIT)

    async def __call__(self, session_ids: Sequence[UUID]) -> list[Session]:
        """Return those of the sessions that exist, swept ones without their sweep.

        Raises:
            SQLAlchemyError: If no connection can be had.
            Exception: Whatever the driver raises.
        """
        if not session_ids:
            return []
        raw_ids = [self._dialect.raw_id(session_id) for session_id in session_ids]
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            return await self._read_once(raw_ids)
        except self._dialect.driver_errors:
            if loop.time() - started > BROKEN_SECONDS:
                raise
        # So soon, the connection had broken while it was idle; a new one tells what is the matter.
        return await self._read_once(raw_ids)

    async def _read_once(self, raw_ids: Sequence[Any]) -> list[Session]:
        await self._take_place()
        try:
            held = self._idle.pop() if self._idle else await self._connect()
            try:
                reading = self._read(held[1], raw_ids)
                found = await within_time_limit(self._dialect, held[1], reading)
            except BaseException:
                # Whatever state it is in, nobody else must get it; and what broke one broke all.
                broken, self._idle = [held, *self._idle], []
                await asyncio.shield(_discard(broken))
                raise
            self._idle.append(held)
        finally:
            self._places.release()
        return found

    async def close(self) -> None:
        """Let go of the kept connections."""
        while self._idle:
            await self._idle.pop()[0].close()
        await self._engine.dispose()

    async def _take_place(self) -> None:
        # The pool can't make anybody wait for a connection that is kept here.
        try:
            async with asyncio.timeout(WAIT_SECONDS if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise NoConnection("no connection came free in time") from None

    async def _connect(self) -> tuple[AsyncConnection, Any]:
        connection = await connected(self._engine)
        raw = await connection.get_raw_connection()
        return connection, raw.driver_connection

    async def _read(self, driver: Any, raw_ids: Sequence[Any]) -> list[Session]:
        found, unknown = [], []
        for fingerprint in await self._short.fetch(self._dialect.fetch_gathered, driver, raw_ids):
            session = self._remembered.get(fingerprint)
            if session is None:
                unknown.append(fingerprint)
            else:
                found.append(session)
        if unknown:
            for row in await self._read_whole(driver, unknown):
                session = rows.session(self._whole.decode(row)[:-1])
                self._remembered.put(row[-1], session)
                found.append(session)
        return found

    async def _read_whole(self, driver: Any, unknown: Sequence[Fingerprint]) -> Sequence[Any]:
        """Return the rows, each with its fingerprint, of fingerprints that nothing is remembered of."""
        if self._dialect.fingerprints_are_whole:
            return [(*self._dialect.fingerprinted(each), each) for each in unknown]
        ids = [self._dialect.fingerprinted(each)[0] for each in unknown]
        return await self._whole.fetch(self._dialect.fetch_by_ids, driver, ids)


async def _discard(connections: Sequence[tuple[AsyncConnection, Any]]) -> None:
    for connection, _ in connections:
        await connection.invalidate()
        await connection.close()


class _Prepared:
    """A statement by ids, written once for each of a few sizes."""

    def __init__(self, columns: Select[Any], engine: AsyncEngine, dialect: Dialect) -> None:
        statement = columns.where(dialect.by_ids(sessions.c.session_id))
        self._statement = statement
        self._engine = engine
        self._dialect = dialect
        self._texts: dict[int, str] = {}
        self._decoders: list[Callable[[Any], Any] | None] = [
            column.type.result_processor(engine.dialect, None)
            for column in statement.selected_columns
        ]

    async def fetch(
        self,
        fetch: Callable[[Any, str, Sequence[Any]], Awaitable[T]],
        driver: Any,
        raw_ids: Sequence[Any],
    ) -> T:
        raw_ids = self._dialect.padded(raw_ids)
        text = self._texts.get(len(raw_ids)) or self._write(len(raw_ids))
        return await fetch(driver, text, raw_ids)

    def _write(self, size: int) -> str:
        compiled = self._statement.params(ids=[None] * size).compile(
            dialect=self._engine.dialect, compile_kwargs={"render_postcompile": True}
        )
        text = self._texts[size] = str(compiled)
        return text

    def decode(self, row: tuple[Any, ...]) -> list[Any]:
        return [
            value if decode is None else decode(value)
            for decode, value in zip(self._decoders, row, strict=True)
        ]


class _Remembered:
    """Sessions by what was read of them. When a generation is full, what was not used in it is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[Fingerprint, Session] = {}
        self._old: dict[Fingerprint, Session] = {}

    def get(self, fingerprint: Fingerprint) -> Session | None:
        session = self._young.get(fingerprint)
        if session is None:
            session = self._old.pop(fingerprint, None)
            if session is not None:
                self.put(fingerprint, session)
        return session

    def put(self, fingerprint: Fingerprint, session: Session) -> None:
        if len(self._young) >= self._limit:
            self._young, self._old = {}, self._young
        self._young[fingerprint] = session
