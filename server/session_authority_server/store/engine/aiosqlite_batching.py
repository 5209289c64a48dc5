"""Run each SQLite statement with one call to its connection's thread instead of four.

aiosqlite runs each connection in a thread of its own. SQLAlchemy makes four calls to that thread for a statement: open
a cursor, execute, fetch, close. Each call switches threads, and so passes the interpreter's lock back and forth.

The private names below are from
https://github.com/sqlalchemy/sqlalchemy/blob/main/lib/sqlalchemy/connectors/asyncio.py and
https://github.com/omnilib/aiosqlite/blob/main/aiosqlite/core.py.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
)
from sqlalchemy.util import await_only


class _Outcome(NamedTuple):
    description: Any
    rowcount: int
    lastrowid: int | None
    rows: Sequence[Any]


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    """A cursor for SQLAlchemy that holds the outcome of a statement and all its rows."""

    __slots__ = ("_outcome",)

    arraysize = 1

    def __init__(self, adapt_connection: AsyncAdapt_aiosqlite_connection) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._outcome = _Outcome(None, -1, None, ())
        self._rows = deque()

    @property
    def description(self) -> Any:
        return self._outcome.description

    @property
    def rowcount(self) -> int:
        return self._outcome.rowcount

    @property
    def lastrowid(self) -> Any:
        return self._outcome.lastrowid

    def execute(self, operation: Any, parameters: Any = None) -> None:
        self._run(_executed, operation, parameters or ())

    def executemany(self, operation: Any, seq_of_parameters: Any) -> None:
        self._run(_executed_many, operation, seq_of_parameters)

    def close(self) -> None:
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """Do nothing. The thread has closed SQLite's cursor already."""

    def _run(self, work: Callable[..., _Outcome], operation: str, parameters: Any) -> None:
        aiosqlite: Any = self._connection
        try:
            running = aiosqlite._execute(work, aiosqlite._conn, operation, parameters)
            self._outcome = await_only(running)
        except (sqlite3.Error, ValueError) as error:
            self._adapt_connection._handle_exception(error)
        self._rows = deque(self._outcome.rows)


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()
    _cursor_cls: type[AsyncAdapt_aiosqlite_cursor] = _Cursor


def connect(dialect: Any, _record: object, arguments: Any, settings: Any) -> _Connection:
    """Connect as SQLAlchemy does, but with the cursor above. Listens to the event `do_connect`."""
    made = dialect.loaded_dbapi.connect(*arguments, **settings)
    return _Connection(made.dbapi, made._connection)


def reset(connection: Any, _record: object, state: Any) -> None:
    """Roll back an open transaction. Listens to SQLAlchemy's event `reset`.

    SQLAlchemy's own reset calls the thread even if no transaction is open.
    """
    if not state.terminate_only and connection.driver_connection.in_transaction:
        connection.rollback()


def _executed(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Outcome:
    with closing(connection.execute(operation, parameters)) as cursor:
        rows = cursor.fetchall()
        return _Outcome(cursor.description, cursor.rowcount, cursor.lastrowid, rows)


def _executed_many(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Outcome:
    with closing(connection.executemany(operation, parameters)) as cursor:
        return _Outcome(None, cursor.rowcount, cursor.lastrowid, ())
