"""How connections to PostgreSQL are opened, so that no setting of a session changes what is read or written.

A role, a database, a pooler, a service file and the environment can all change the settings of a session. Values
therefore travel in binary, which DateStyle, IntervalStyle, TimeZone and bytea_output do not affect. Text in binary
still has an encoding: every connection asks for UTF8 and verifies that it got it.
"""

import contextlib
import os
import socket
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.types.datetime import TimedeltaBinaryDumper

_CONNECT_TIMEOUT_SECONDS = 2
_UTF8 = "UTF8"


class WrongEncoding(psycopg.OperationalError):
    """Text would not arrive as it was sent."""


class BinaryCursor(psycopg.AsyncCursor[Any]):
    """A cursor that has PostgreSQL send values in binary unless the caller asks otherwise."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.format = Format.BINARY


def connect_arguments(url: str) -> dict[str, Any]:
    """Return what to connect to a primary with.

    Raises:
        ValueError: If the address can't be read.
    """
    return {
        # Works behind a transaction pooler too, which may run each transaction elsewhere.
        "prepare_threshold": None,
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "application_name": "session-authority",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 5_000,
        # Read as libpq reads it, with several hosts too, and not as SQLAlchemy would.
        **_parameters_of(url),
        # A standby, or a primary that became one, must not answer.
        "target_session_attrs": "read-write",
        # Outranks the environment, service files, roles and databases. Poolers pass it on.
        "client_encoding": _UTF8,
        "cursor_factory": BinaryCursor,
    }


def verify(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Check that text arrives as it was sent. What is checked was reported when the connection was opened.

    Raises:
        WrongEncoding: If it does not, and how to mend that.
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
    """Make a new connection of SQLAlchemy's ready for use: a listener to its `connect`.

    Raises:
        WrongEncoding: If text would not arrive as it was sent.
    """
    driver = connection.driver_connection
    try:
        verify(driver)
    except WrongEncoding:
        connection.close()  # the pool never gets it, and so would never close it
        raise
    driver.adapters.register_dumper(timedelta, TimedeltaBinaryDumper)


def cut_off(connection: Any) -> None:
    """Shut the socket of a driver's connection, so that whoever waits on the connection gets an error."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


def _reported(connection: "psycopg.AsyncConnection[Any]", name: str) -> str:
    value = connection.pgconn.parameter_status(name.encode())
    return "not known" if value is None else value.decode()


def _parameters_of(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise ValueError("that is no address") from None  # the driver's words quote it
