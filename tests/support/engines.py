"""The engines of the contract suite, and functions for their tests."""

import atexit
import contextlib
import io
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Executable, insert, select, text

from session_authority_server.domain.device import Device
from session_authority_server.domain.session import (
    NO_ATTRIBUTES,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.domain.token import hash_secret, new_id
from session_authority_server.ports.store import KeyStore, SessionStore, Transaction
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_server.store import rows
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.partitions import Partitioning
from session_authority_server.store.schema import migrate, write_sql
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.tables import metadata
from session_authority_server.store.tables import sessions as sessions_table
from session_authority_server.store.upkeep import SqlUpkeepStore
from tests.support import postgresql

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
SECRET = b"s" * 32

_CHUNK = 1_000
_INSERT_USERS = text(
    "INSERT INTO users (user_id, epoch) VALUES (:user_id, 0) ON CONFLICT DO NOTHING"
)
_INSERT = insert(sessions_table)
_sqlite_template: list[bytes] = []
_databases = contextlib.ExitStack()
atexit.register(_databases.close)
_idle: "defaultdict[int | None, list[_Migrated]]" = defaultdict(list)
_OTHERS_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid != pg_backend_pid()"
)
_EMPTY = "".join(f"DELETE FROM {table};" for table in metadata.tables)
_LAYOUT = """
    SELECT md5(string_agg(c::text, '' ORDER BY c.oid)) || sum(pg_relation_size(c.oid)) / 1000000
    FROM pg_class c WHERE relnamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Engine:
    """An empty, migrated database and the stores over it."""

    database: Database
    sessions: SessionStore
    upkeep: UpkeepStore
    keys: KeyStore

    @property
    def url(self) -> str:
        """Return the PostgreSQL address of the database."""
        url: str = self.database.dialect.url  # type: ignore[attr-defined]
        return url

    async def execute(self, *statements: Executable) -> None:
        """Run and commit statements for which the store has no method."""

        async def work(connection: Any) -> None:
            for statement in statements:
                await connection.execute(statement)

        await self.database.write(work)

    async def add(self, *sessions: Session) -> list[Session]:
        """Add sessions in transactions, as sign-ins do."""

        async def work(transaction: Transaction) -> list[Session]:
            for user_id in sorted({session.user_id for session in sessions}):
                await transaction.lock_user(user_id)
            return [await transaction.insert_session(session) for session in sessions]

        return await self.sessions.transact(work)

    async def fill(self, sessions: Sequence[Session], check_time: datetime | None = None) -> None:
        """Add many sessions with their epochs and endings, and add missing users."""
        there = [{"user_id": user_id} for user_id in {session.user_id for session in sessions}]

        async def add_users(connection: Any) -> None:
            await connection.execute(_INSERT_USERS, there)

        if there:
            await self.database.write(add_users, limited=False)
        for start in range(0, len(sessions), _CHUNK):
            filled = [_as_row(each, check_time) for each in sessions[start : start + _CHUNK]]

            async def insert_all(connection: Any, filled: Any = filled) -> None:
                await connection.execute(_INSERT, filled)

            await self.database.write(insert_all, limited=False)

    async def get(self, session_id: UUID) -> Session:
        """Return an existing session."""
        return (await self.sessions.read_sessions([session_id]))[session_id]

    async def user_agent(self, session_id: UUID) -> str:
        """Return the stored user agent of a session, which no method of the store reads."""
        statement = select(sessions_table.c.user_agent).where(
            sessions_table.c.session_id == session_id
        )

        async def work(connection: Any) -> str:
            found: str = (await connection.execute(statement)).scalar_one()
            return found

        return await self.database.read(work)

    async def sweep(
        self,
        user_id: str,
        time: datetime,
        by: InitiatingEntity = InitiatingEntity.USER,
        *,
        exempt: UUID | None = None,
    ) -> None:
        """End all sessions of a user."""

        async def work(transaction: Transaction) -> None:
            await transaction.lock_user(user_id)
            await transaction.sweep_user(user_id, Sweep(time, by))
            if exempt is not None:
                await transaction.exempt_from_sweep(exempt)

        await self.sessions.transact(work)

    async def sweep_everybody(
        self, time: datetime, by: InitiatingEntity = InitiatingEntity.ADMIN
    ) -> None:
        """End the sessions of all users."""
        sweep = Sweep(time, by)
        await self.sessions.transact(lambda transaction: transaction.sweep_everybody(sweep))


def _as_row(session: Session, check_time: datetime | None) -> dict[str, Any]:
    idle = session.idle_expire_time or session.expire_time
    ending = session.ending
    return rows.as_row(session, check_time or min(idle, session.expire_time)) | {
        "user_epoch": session.user_epoch,
        "global_epoch": session.global_epoch,
        "end_time": ending and ending.time,
        "end_reason": ending and ending.reason,
        "initiating_entity": ending and ending.initiated_by,
    }


def sweep_row(
    user_id: str, epoch: int, time: datetime, by: InitiatingEntity, *, settled: bool = False
) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "epoch": epoch,
        "sweep_time": time,
        "initiating_entity": by,
        "reason": "",
        "settled": settled,
    }


def a_session(
    user_id: str = "ann",
    *,
    at: datetime = START,
    last_active: datetime | None = None,
    lifetime: timedelta = 30 * DAY,
    idle_timeout: timedelta | None = None,
    session_id: UUID | None = None,
    attributes: Mapping[str, str] = NO_ATTRIBUTES,
) -> Session:
    """Return a session as a sign-in makes it."""
    return Session(
        session_id=session_id or new_id(at),
        user_id=user_id,
        secret_hash=hash_secret(SECRET),
        device=Device(),
        user_agent="",
        ip_address="192.0.2.1",
        last_ip_address="192.0.2.1",
        create_time=at,
        authenticate_time=at,
        authentication_methods=("pwd",),
        last_active_time=last_active or at,
        lifetime=lifetime,
        expire_time=at + lifetime,
        idle_timeout=idle_timeout,
        attributes=attributes,
    )


def stored_fields(session: Session | None) -> dict[str, object] | None:
    """Return the fields that the store reads back as written. Session objects compare by identity."""
    if session is None:
        return None
    others = {"user_agent", "subject_hash", "sid_hash"}  # these are never read
    others.add("new_device")  # the INSERT decides it
    names = (field.name for field in fields(session) if field.name not in others)
    return {name: getattr(session, name) for name in names}


def at(moment: datetime) -> Callable[[], datetime]:
    """Return a clock that always shows the same time."""
    return lambda: moment


def ids(sessions: Sequence[Session]) -> list[UUID]:
    return [session.session_id for session in sessions]


def numbered(number: int) -> UUID:
    """Return an id that sorts by its number."""
    return UUID(int=number)


def with_secret(session: Session, secret: bytes) -> Session:
    return replace(session, secret_hash=hash_secret(secret))


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Engine]:
    """Open an empty database of an engine."""
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            database = await migrated_sqlite(folder / "authority.db")
        else:
            days = {"postgresql": None, "partitioned": 30}[kind]
            database = Database.postgresql(stack.enter_context(migrated_postgresql(days)))
        try:
            yield over(database)
        finally:
            await database.close()


def over(database: Database) -> Engine:
    return Engine(
        database, SqlSessionStore(database), SqlUpkeepStore(database), SqlKeyStore(database)
    )


@contextlib.contextmanager
def migrated_postgresql(partition_days: int | None = None) -> Iterator[str]:
    """Yield the address of a migrated PostgreSQL database that no other test uses at the same time."""
    idle = _idle[partition_days]
    if not idle:
        idle.append(_Migrated(_databases.enter_context(postgresql.fresh_database())))
    migrated = idle.pop()
    with psycopg.connect(migrated.url, autocommit=True) as admin:
        admin.execute(_OTHERS_OUT)
        migrated.reset(admin, partition_days)
    yield migrated.url
    idle.append(migrated)


@dataclass
class _Migrated:
    url: str
    layout: str = ""
    first_rows: dict[str, list[Any]] = field(default_factory=dict)

    def reset(self, admin: psycopg.Connection[Any], partition_days: int | None) -> None:
        """Delete what a test wrote: a hundred times faster than making the tables again."""
        if self.layout and self.layout == _layout(admin):
            admin.execute(_EMPTY)
            for table, rows in self.first_rows.items():
                put = f"INSERT INTO {table} SELECT (%s::{table}).*"
                admin.cursor().executemany(put.encode(), rows)
            admin.execute("UPDATE upkeep SET clock_time = clock_timestamp()")
            return
        admin.execute(_made_again(partition_days).encode())
        self.layout = _layout(admin)
        for table in metadata.tables:
            rows = admin.execute(f"SELECT t::text FROM {table} t".encode()).fetchall()
            self.first_rows[table] = rows


def _layout(admin: psycopg.Connection[Any]) -> str:
    """Return a text that any change of the tables changes, and so does a megabyte of rows."""
    [[layout]] = admin.execute(_LAYOUT).fetchall()
    return str(layout)


@cache
def _made_again(partition_days: int | None) -> str:
    sql = io.StringIO()
    # Few partitions, so that creating them is quick and the sessions of a test lie in several.
    partitioning = None if partition_days is None else Partitioning(partition_days, START)
    write_sql("postgresql", sql, partitioning)
    return f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {sql.getvalue()}"


async def migrated_sqlite(path: Path) -> Database:
    """Open a migrated SQLite file. Create it if it does not exist."""
    if path.exists():
        return Database.sqlite(path)
    if not _sqlite_template:  # migrated once, then copied: a hundred times faster
        first = Database.sqlite(path)
        await migrate(first)
        await first.close()
        _sqlite_template.append(path.read_bytes())
    path.write_bytes(_sqlite_template[0])
    return Database.sqlite(path)
