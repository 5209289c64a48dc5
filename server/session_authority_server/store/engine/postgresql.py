"""PostgreSQL: its connections, and the notifications that carry changes from one server to the others.

No setting of a PostgreSQL session may change the values that are read or written. A role, a database, a pooler, a
service file and the environment can all change such settings.

Values therefore travel in binary, which DateStyle, IntervalStyle, TimeZone and bytea_output do not affect. Binary text
still has an encoding, so every connection requests UTF8 and verifies that it is in use.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import psycopg
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict
from psycopg.generators import execute
from psycopg.pq import Conninfo, ExecStatus, Format
from psycopg.types.composite import RecordBinaryLoader
from psycopg.types.datetime import TimedeltaBinaryDumper
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Insert,
    LargeBinary,
    Select,
    Table,
    Uuid,
    any_,
    bindparam,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from session_authority_server.domain.session import Changes
from session_authority_server.store.engine import limits
from session_authority_server.store.engine.dialect import COMMIT_IN_DOUBT, Unpack

_CONNECT_TIMEOUT_SECONDS = 2
# A transaction that waits longer is probably behind a client that disappeared while it held a lock. The waiting
# transaction occupies a connection that other calls need.
_LOCK_TIMEOUT_MILLISECONDS = 1_000
_STATEMENT_TIMEOUT_MILLISECONDS = 1_900
_CANCEL_TIMEOUT_SECONDS = 0.5
_UTF8 = "UTF8"
_ANY_POSTGRESQL = "postgresql+psycopg://"
_RECORD_OID = 2249
_UUID_OID = 2950
_UUID_LENGTH = struct.pack("!i", 16)
_IDENTITY_LOCKS = 0x5E551013  # the first of two numbers; the other one is from the identity's hash
_MIGRATION_LOCK = 0x5E551013_A07408  # arbitrary; other programs are unlikely to use the same number
_NOT_DURABLE = {"synchronous_commit": "off"}
_AS_WORKER = {
    "idle_in_transaction_session_timeout": "5s",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}
CHANNEL = "session_authority_changes"
# A notification holds less than 8,000 bytes (PostgreSQL's NOTIFY_PAYLOAD_MAX_LENGTH).
PAYLOAD_LIMIT_BYTES = 7_900
_SESSION_IDS_AT_ONCE = PAYLOAD_LIMIT_BYTES // 33
_USER_IDS_AT_ONCE = PAYLOAD_LIMIT_BYTES // 256  # at most 255 bytes each, and a newline
_SESSIONS, _USERS, _EVERYBODY = "s", "u", "a"
_NOTIFY = text(
    "SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload"
).bindparams(channel=CHANNEL)

# The planner estimates the number of rows from its statistics, and reads no row.
_PLAN_OF_LIVE = text(
    "EXPLAIN (FORMAT JSON) SELECT FROM sessions WHERE end_time IS NULL AND expire_time > :now"
)


class PostgreSQL:
    """The dialect for PostgreSQL. Every connection goes to the primary, and any number of processes can write.

    Raises:
        ValueError: If the address can't be parsed.
    """

    writers = 8
    takes_arrays = True
    time_query: str | None = "SELECT clock_timestamp()"

    def __init__(self, url: str) -> None:
        # Without a connection, the loader uses UTC and UTF-8. `verify` ensures that UTF-8 is right.
        self._records = RecordBinaryLoader(_RECORD_OID)
        self.driver_errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self.url = url
        self._connect_args = connect_arguments(url)

    def reader(self) -> AsyncEngine:
        engine = create_async_engine(
            _ANY_POSTGRESQL,
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=limits.READERS,
            max_overflow=0,
            pool_timeout=limits.WAIT_SECONDS,
            connect_args=self._connect_args,
        )
        event.listen(engine.sync_engine, "connect", prepare)
        return engine

    def writer(self) -> AsyncEngine:
        engine = create_async_engine(
            _ANY_POSTGRESQL,
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # overrides the default of the role and of the database
            pool_size=self.writers,
            max_overflow=0,
            pool_timeout=limits.WAIT_SECONDS,
            connect_args=self._connect_args,
        )
        event.listen(engine.sync_engine, "connect", prepare)
        event.listen(engine.sync_engine, "connect", _watch_for_doubtful_commits)

        @event.listens_for(engine.sync_engine, "begin")
        def bound(connection: Any) -> None:
            # The settings end with the transaction. Afterwards, a pooler may give the connection to another client.
            connection.exec_driver_sql(
                f"SELECT set_config('lock_timeout', '{_LOCK_TIMEOUT_MILLISECONDS}', true), "
                f"set_config('statement_timeout', '{_STATEMENT_TIMEOUT_MILLISECONDS}', true), "
                # A commit in doubt is reported as a warning, which must not be filtered out.
                "set_config('client_min_messages', 'warning', true), "
                # Type names must not be quoted when SQLAlchemy inspects the schema.
                "set_config('quote_all_identifiers', 'off', true)"
            )

        return engine

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        return column == any_(bindparam("ids", type_=ARRAY(Uuid())))

    def packed(self, statement: Select[Any]) -> tuple[Select[Any], Unpack]:
        # Rows arrive in PostgreSQL's binary form, so psycopg need not decode a cached row.
        #
        # pg_is_in_recovery() detects a pooler that has switched to a standby, whose rows may be out of date.
        row = func.record_send(func.row(*statement.selected_columns), type_=LargeBinary)
        packed = statement.with_only_columns(func.pg_is_in_recovery(), func.array_agg(row))
        return packed, self._records.load

    async def fetch_packed(
        self, driver: Any, statement_for: Callable[[int], str], ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        # psycopg's cursor costs more CPU than the whole rest of the read, so send the statement without it
        # (docs/decisions/0006-records-for-the-hot-read.md).
        statement = statement_for(1).replace("%(ids)s", "$1")  # One array parameter holds all ids.
        driver.pgconn.send_query_params(
            statement.encode(),
            [_uuid_array(ids)],
            param_formats=[Format.BINARY],
            result_format=Format.BINARY,
        )
        [result] = await driver.wait(execute(driver.pgconn))
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        values = Transformer(driver)
        values.set_pgresult(result)
        in_recovery, packed = values.load_row(0, tuple)
        if in_recovery:
            raise psycopg.errors.ReadOnlySqlTransaction("a standby answered instead of the primary")
        return packed or ()

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        await connection.execute(_NOTIFY, {"payloads": list(payloads(changes))})

    async def estimate_live(self, connection: AsyncConnection, now: datetime) -> int:
        [plan] = (await connection.execute(_PLAN_OF_LIVE, {"now": now})).scalar_one()
        return int(plan["Plan"]["Plan Rows"])

    def insert_if_absent(self, table: Table) -> Insert:
        key = list(table.primary_key)
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=key)

    def identity_locks(self, hashes: Sequence[bytes]) -> Sequence[ColumnElement[Any]]:
        return [func.pg_advisory_xact_lock_shared(*_identity_lock(each)) for each in hashes]

    async def lock_identity(self, connection: AsyncConnection, identity_hash: bytes) -> None:
        locking = func.pg_advisory_xact_lock(*_identity_lock(identity_hash))
        await connection.execute(select(locking))

    def try_migration_lock(self, connection: Connection) -> bool:
        # Switch off `statement_timeout`, because a migration may run for a long time. Switch off
        # `idle_in_transaction_session_timeout`, because this connection is idle while a second one builds the indexes.
        # Keep `lock_timeout`: while a migration waits for a lock on a table, its other users wait behind it.
        connection.exec_driver_sql(
            "SELECT set_config('statement_timeout', '0', true), "
            "set_config('idle_in_transaction_session_timeout', '0', true)"
        )
        taking = f"SELECT pg_try_advisory_xact_lock({_MIGRATION_LOCK})"
        return bool(connection.exec_driver_sql(taking).scalar_one())

    def worker_settings(self, *, durable: bool = False) -> ColumnElement[Any]:
        settings = _AS_WORKER if durable else _AS_WORKER | _NOT_DURABLE
        return func.row(*(func.set_config(name, value, True) for name, value in settings.items()))

    async def interrupt(self, driver: Any) -> None:
        with contextlib.suppress(*self.driver_errors):
            await driver.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)

    def cut_off(self, driver: Any) -> None:
        cut_off(driver)


class WrongEncoding(psycopg.OperationalError):
    """A text encoding other than UTF8 is in use, so text would be corrupted."""


class BinaryCursor(psycopg.AsyncCursor[Any]):
    """A cursor that requests binary values from PostgreSQL by default."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.format = Format.BINARY


def connect_arguments(url: str) -> dict[str, Any]:
    """Return psycopg's arguments for a connection to the primary.

    Raises:
        ValueError: If the address can't be parsed.
    """
    return {
        # A transaction pooler may run each transaction on another connection, which lacks prepared statements.
        "prepare_threshold": None,
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "application_name": "session-authority",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 5_000,
        # Parsed by libpq instead of SQLAlchemy, because libpq accepts several hosts.
        **_parameters_of(url),
        # A standby, or a primary that became one, must not answer.
        "target_session_attrs": "read-write",
        # Overrides the environment, service files, roles and databases. Poolers pass it on.
        "client_encoding": _UTF8,
        "cursor_factory": BinaryCursor,
    }


def verify(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Check that the database and the connection use UTF8, as PostgreSQL reported when the connection opened.

    Raises:
        WrongEncoding: If one of them uses another encoding. The message says how to mend that.
    """
    stored = _reported(connection, "server_encoding")
    if stored != _UTF8:
        raise WrongEncoding(
            f"its encoding is {stored}, and user ids need UTF8; make another database with: CREATE DATABASE name "
            "TEMPLATE template0 ENCODING 'UTF8'"
        )
    sent = _reported(connection, "client_encoding")
    if sent != _UTF8:
        raise WrongEncoding(
            f"client_encoding is {sent} although UTF8 was asked for; have the pooler pass client_encoding on"
        )


def prepare(connection: Any, _record: object) -> None:
    """Prepare a new connection. Listens to SQLAlchemy's event `connect`.

    Raises:
        WrongEncoding: If a text encoding other than UTF8 is in use.
    """
    driver = connection.driver_connection
    try:
        verify(driver)
    except WrongEncoding:
        connection.close()  # The pool never receives this connection, so the pool can't close it.
        raise
    driver.adapters.register_dumper(timedelta, TimedeltaBinaryDumper)


def cut_off(connection: Any) -> None:
    """Shut down the socket of a driver's connection, so that a task that waits on it gets an error."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


def payloads(changes: Changes) -> Iterator[str]:
    """Return changes as the payloads of notifications: a letter for the kind, then one name per line."""
    if changes.everybody:
        yield _EVERYBODY
        return
    for kind, names, at_once in (
        (_SESSIONS, [each.hex for each in changes.session_ids], _SESSION_IDS_AT_ONCE),
        (_USERS, list(changes.user_ids), _USER_IDS_AT_ONCE),
    ):
        for start in range(0, len(names), at_once):
            yield "\n".join((kind, *names[start : start + at_once]))


def read_payload(payload: str) -> Changes:
    """Return the changes in a notification. An unknown payload means that everybody's sessions changed.

    A server of a later release may have sent it. Caches that drop too much stay correct.
    """
    kind, *names = payload.split("\n")
    if kind == _USERS:
        return Changes(user_ids=set(names))
    if kind == _SESSIONS:
        try:
            return Changes(session_ids={UUID(hex=name) for name in names})
        except ValueError:
            pass
    return Changes(everybody=True)


def _identity_lock(identity_hash: bytes) -> tuple[int, int]:
    """Return the numbers of an identity's lock. If two identities share them, they only wait for each other."""
    return _IDENTITY_LOCKS, int.from_bytes(identity_hash[:4], signed=True)


def _uuid_array(ids: Sequence[UUID]) -> bytes:
    """Return ids as an array in PostgreSQL's binary form."""
    # One dimension, no nulls, the type of the elements, their number, and the index of the first element.
    head = struct.pack("!5i", 1, 0, _UUID_OID, len(ids), 1)
    return head + b"".join([_UUID_LENGTH + each.bytes for each in ids])


def _watch_for_doubtful_commits(connection: Any, record: Any) -> None:
    """Mark the connection if the synchronous standby did not confirm a commit.

    In this case PostgreSQL commits on the primary alone, and reports it by a warning instead of an error.
    """

    def note(diagnostic: Any) -> None:
        # Recognize the warning by its source, because the text of the message may be in any language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            record.info[COMMIT_IN_DOUBT] = True

    connection.driver_connection.add_notice_handler(note)


def _reported(connection: "psycopg.AsyncConnection[Any]", name: str) -> str:
    value = connection.pgconn.parameter_status(name.encode())
    return "not known" if value is None else value.decode()


def _parameters_of(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        # The driver's message would quote the address.
        raise ValueError(_fault_of(url)) from None


def _fault_of(url: str) -> str:
    """Return why libpq can't parse an address, without quoting any part of it."""
    known = {each.keyword.decode() for each in Conninfo.get_defaults()} | {"ssl"}
    names = [each.partition("=")[0] for each in url.partition("?")[2].split("&") if each]
    for number, name in enumerate(names, 1):
        if name not in known:
            close = get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]}?" if close else "leave it out"
            return f"libpq does not know parameter {number} after the question mark; {advice}"
    return (
        "give postgresql://user:password@host:port/database. Write characters other than letters, digits and -._~ in "
        "each part as %XX"
    )
