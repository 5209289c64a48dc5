"""What is done with a connection of libpq itself. One statement foremost, without the driver's own machinery in between.

psycopg's cursor costs a validation 200 us of CPU where libpq needs 50 (docs/performance.md).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus, Format

_UUID_ARRAY_OID = 2951
# How PostgreSQL sends arrays: dimensions, a flag for nulls, the type, then for each dimension length and
# first index; and each value as length and bytes (array_send in its source, stable since 7.4).
_ARRAY_HEADER_BYTES = 20
_LENGTH_BYTES = 4
_UUID_ARRAY_HEADER = bytes.fromhex("00000001 00000000 00000b86")
_UUID_LENGTH = bytes.fromhex("00000010")
_FIRST_INDEX = bytes.fromhex("00000001")


async def fetch_row(connection: Any, statement: bytes, ids: Sequence[UUID]) -> list[bytes | None]:
    """Return the one row of a SELECT whose one parameter ($1) is an array of ids, as PostgreSQL sends it.

    Args:
        connection: A `psycopg.pq.PGconn` that is idle, and that nobody must use again if this raises.
        statement: What to run.
        ids: The parameter.

    Raises:
        psycopg.Error: If the statement fails or the connection is lost.
    """
    connection.send_query_params(
        statement,
        [_uuid_array(ids)],
        param_types=[_UUID_ARRAY_OID],
        param_formats=[Format.BINARY],
        result_format=Format.BINARY,
    )
    result = await _Answer(connection)()
    if result.status != ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result)
    return [result.get_value(0, column) for column in range(result.nfields)]


def cut_off(connection: Any) -> None:
    """Have whoever waits for the server on a driver's connection wait no more."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


def array_items(sent: bytes) -> list[bytes]:
    """Return the items of a one-dimensional array, none of them null, as PostgreSQL sends them."""
    items = []
    at, end = _ARRAY_HEADER_BYTES, len(sent)
    while at < end:
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(sent[at:begin])
        items.append(sent[begin:at])
    return items


def _uuid_array(ids: Sequence[UUID]) -> bytes:
    parts = [_UUID_ARRAY_HEADER, len(ids).to_bytes(4), _FIRST_INDEX]
    for each in ids:
        parts += (_UUID_LENGTH, each.bytes)
    return b"".join(parts)


class _Answer:
    """The answer to what was sent, waited for without a thread or a task of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket = connection.socket
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()
        self._result: Any = None

    async def __call__(self) -> Any:
        self._run(self._flush)
        try:
            return await self._future
        finally:
            if self._future.cancelled():
                self._let_go()

    def _let_go(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def _run(self, step: Callable[[], None]) -> None:
        # libpq may close the socket, whose number can be somebody else's by the next line.
        self._let_go()
        try:
            step()
        except Exception as error:  # noqa: BLE001 - nobody but the future's owner would hear of it
            if not self._future.done():
                self._future.set_exception(error)

    def _flush(self) -> None:
        if self._connection.flush():
            self._loop.add_writer(self._socket, self._run, self._flush)
        self._loop.add_reader(self._socket, self._run, self._read)

    def _read(self) -> None:
        self._connection.consume_input()
        # Asked for a result that is still on its way, libpq would block; None comes after the last one.
        while not self._connection.is_busy():
            part = self._connection.get_result()
            if part is None:
                if not self._future.done():
                    self._future.set_result(self._result)
                return
            self._result = part
        self._flush()
