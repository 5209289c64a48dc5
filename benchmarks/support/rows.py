"""Fills a store with many sessions quickly, without the API and SQLAlchemy."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
from sqlalchemy import TypeDecorator

from session_authority_server.app.database import opened
from session_authority_server.config import load_settings
from session_authority_server.domain import token as tokens
from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.store import rows
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.tables import sessions

SESSIONS_A_USER = 5
_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/141.0.0.0 Safari/537.36"
)
_LIFETIME = timedelta(days=90)
# Decouples the order of user ids from the order of sign-ins.
_SHUFFLE = 2_654_435_761


def fill(
    database: str, count: int, *, overdue: int = 0, sample: int = 20_000
) -> list[tuple[str, str]]:
    """Fill an empty database with sessions, the first of them overdue.

    Returns:
        The tokens and ids of a sample of live sessions.
    """
    dialect = asyncio.run(_made(database))
    made = _Made(count, overdue, sample)
    if database.startswith("sqlite"):
        _fill_sqlite(database.removeprefix("sqlite:///"), dialect, made)
    else:
        _fill_postgresql(database, dialect, made)
    made.random.shuffle(made.kept)
    return made.kept


async def _made(database: str) -> Dialect:
    async with opened(load_settings(database_url=database), make_schema=True) as store:
        return store.dialect


class _Made:
    """Generates sessions as rows, and keeps the tokens of a sample."""

    def __init__(self, count: int, overdue: int, sample: int) -> None:
        self.random = Random(count)
        self.count = count
        self.users = max(1, count // SESSIONS_A_USER)
        self.kept: list[tuple[str, str]] = []
        self._overdue = overdue
        self._every = max(1, (count - overdue) // sample)
        self._now = datetime.now(UTC)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, in the order of creation times."""
        template = self._template()
        for number in range(self.count):
            # Sign-ins are spread evenly over the last 89 days. Overdue sessions signed in 91 to 92 days ago.
            late = number < self._overdue
            age = timedelta(
                days=92 - number / self._overdue if late else 89 * (1 - number / self.count)
            )
            made = self._now - age
            secret = self.random.randbytes(tokens.SECRET_BYTES)
            token = Token(tokens.new_id(made), secret)
            if not late and number % self._every == 0:
                self.kept.append((token.encode(), str(token.id)))
            template |= {
                "session_id": token.id,
                "user_id": f"user-{number * _SHUFFLE % self.users}",
                "secret_hash": tokens.hash_secret(secret),
                "create_time": made,
                "authenticate_time": made,
                # In steady use: each session is due for an activity update within the next minute.
                "last_active_time": self._now - timedelta(seconds=60 * self.random.random()),
                "expire_time": made + _LIFETIME,
                "check_time": made + _LIFETIME,
            }
            yield template

    def _template(self) -> dict[str, Any]:
        session = Session(
            session_id=tokens.new_id(self._now),
            user_id="",
            secret_hash=b"",
            device=Device("Chrome", "141", "Windows", "", DeviceType.DESKTOP),
            user_agent=_AGENT,
            ip_address="203.0.113.7",
            last_ip_address="203.0.113.7",
            create_time=self._now,
            authenticate_time=self._now,
            authentication_methods=("pwd",),
            last_active_time=self._now,
            lifetime=_LIFETIME,
            expire_time=self._now,
            idle_timeout=None,
            attributes={},
        )
        row = rows.as_row(session, check_time=session.expire_time)
        return row | {"user_epoch": 0, "global_epoch": 0}


def _encoded(dialect: Dialect, made: _Made) -> Iterator[Sequence[Any]]:
    """Yield the rows in the form that the driver accepts."""
    engine = dialect.reader().dialect
    columns = [sessions.c[name] for name in _names()]
    for row in made.rows():
        yield [
            column.type.process_bind_param(row[column.name], engine)
            if isinstance(column.type, TypeDecorator)
            else row[column.name]
            for column in columns
        ]


def _names() -> list[str]:
    return list(next(_Made(1, 0, 1).rows()))


def _fill_sqlite(path: str, dialect: Dialect, made: _Made) -> None:
    names = _names()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'sessions' AND type = 'index' AND sql != ''"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        places = ", ".join("?" * len(names))
        connection.executemany(
            f"INSERT INTO sessions ({', '.join(names)}) VALUES ({places})", _encoded(dialect, made)
        )
        connection.executemany(
            "INSERT INTO users (user_id, epoch) VALUES (?, 0)",
            ((f"user-{number}",) for number in range(made.users)),
        )
        connection.commit()
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_postgresql(url: str, dialect: Dialect, made: _Made) -> None:
    names = _names()
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'sessions' "
            "AND indexname != 'sessions_pkey'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        statement = f"COPY sessions ({', '.join(names)}) FROM STDIN".encode()
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in _encoded(dialect, made):
                copy.write_row(row)
        connection.execute(
            "INSERT INTO users (user_id, epoch) SELECT 'user-' || number, 0 "
            "FROM generate_series(0, %s) AS number",
            (made.users - 1,),
        )
        connection.execute("SET maintenance_work_mem = '1GB'")
        for _, statement in indexes:
            connection.execute(statement.encode())
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")
