"""One statement on a connection of libpq, without the driver's own machinery in between.

psycopg's cursor costs a validation 200 us of CPU where libpq needs 50 (docs/performance.md).
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import OperationalError, errors
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
    result = await _answer(connection)
    if result.status != ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result)
    return [result.get_value(0, column) for column in range(result.nfields)]


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


async def _answer(connection: Any) -> Any:
    """Wait, without a thread or a task of its own, until the answer to what was sent is complete."""
    loop = asyncio.get_running_loop()
    socket = connection.socket
    answered: asyncio.Future[Any] = loop.create_future()
    result: Any = None

    def let_go() -> None:
        # Before libpq runs, which may close the socket: its number can be somebody else's by the next line.
        loop.remove_reader(socket)
        loop.remove_writer(socket)

    def write() -> None:
        let_go()
        try:
            if connection.flush():
                loop.add_writer(socket, write)
            loop.add_reader(socket, read)
        except OperationalError as error:
            _fail(answered, error)

    def read() -> None:
        nonlocal result
        let_go()
        try:
            connection.consume_input()
            # Asked for a result that is still on its way, libpq would block; None comes after the last one.
            while not connection.is_busy():
                part = connection.get_result()
                if part is None:
                    _succeed(answered, result)
                    return
                result = part
            if connection.flush():
                loop.add_writer(socket, write)
            loop.add_reader(socket, read)
        except OperationalError as error:
            _fail(answered, error)

    write()
    try:
        return await answered
    except asyncio.CancelledError:
        let_go()
        raise


def _succeed(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
