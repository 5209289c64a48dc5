"""One statement on libpq's connection, against a server."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import psycopg
import pytest

from session_authority_server.store.libpq import array_items, fetch_row
from tests import postgresql

ECHO = b"SELECT true, array_agg(each::text::bytea) FROM unnest($1::uuid[]) AS each"


@pytest.fixture
async def connection() -> AsyncIterator["psycopg.AsyncConnection[tuple[object, ...]]"]:
    url = postgresql.shared_url()
    made = await psycopg.AsyncConnection.connect(url, autocommit=True)
    yield made
    await made.close()


Connection = psycopg.AsyncConnection[tuple[object, ...]]


async def echo(connection: Connection, ids: list[UUID]) -> list[str]:
    _, array = await fetch_row(connection.pgconn, ECHO, ids)
    return [] if array is None else [item.decode() for item in array_items(array)]


@pytest.mark.parametrize("count", [1, 2, 1_000])
async def test_the_ids_arrive_and_the_array_comes_back(connection: Connection, count: int) -> None:
    ids = [uuid4() for _ in range(count)]
    for _ in range(2):
        assert await echo(connection, ids) == [str(each) for each in ids]


async def test_no_rows_are_no_array(connection: Connection) -> None:
    assert await echo(connection, []) == []


async def test_what_does_not_fit_into_the_socket_is_sent_bit_by_bit(connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    ids = [uuid4() for _ in range(100_000)]
    assert len(await echo(connection, ids)) == len(ids)


async def test_a_statement_that_fails_raises_the_drivers_error_and_the_next_one_works(
    connection: Connection,
) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await fetch_row(connection.pgconn, b"SELECT $1::uuid[] FROM missing", [uuid4()])
    assert len(await echo(connection, [uuid4()])) == 1


async def test_a_connection_that_is_lost_meanwhile_raises(connection: Connection) -> None:
    sleeping = asyncio.create_task(
        fetch_row(connection.pgconn, b"SELECT pg_sleep(60), $1::uuid[]", [uuid4()])
    )
    await asyncio.sleep(0.05)
    async with await psycopg.AsyncConnection.connect(
        postgresql.shared_url(), autocommit=True
    ) as admin:
        await admin.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid})".encode())
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(sleeping, 5)


async def test_a_connection_that_was_lost_before_raises(connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(echo(connection, [uuid4()]), 5)


async def test_who_stops_waiting_leaves_the_loop_as_it_was(connection: Connection) -> None:
    sleeping = asyncio.create_task(
        fetch_row(connection.pgconn, b"SELECT pg_sleep(60), $1::uuid[]", [uuid4()])
    )
    await asyncio.sleep(0.05)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(connection.fileno())
    assert not loop.remove_writer(connection.fileno())
