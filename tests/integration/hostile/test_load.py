"""The authority keeps answering under any load on its port."""

import asyncio
import contextlib
import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from session_authority import AsyncSessionClient, SessionClient
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.rpc.host import accept_loop
from tests.integration.hostile.sockets import CALLS_AT_ONCE, PREFACE, VALIDATE, drain, raw_socket
from tests.support.program import Program, serving
from tests.support.raw_http2 import (
    END_STREAM,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    UNKNOWN,
    RawConnection,
    frame,
    headers,
)
from tests.support.soak import soaked

pytestmark = pytest.mark.both_hosts

BUSY_CALLS = 100  # as many as each connection may have
REQUEST_OF_A_BATCH_BYTES = 1024 * 1024


@pytest.mark.parametrize("message", [None, b""], ids=["headers", "headers and a message"])
@pytest.mark.parametrize("path", [VALIDATE, b"/nope"], ids=["known", "unknown"])
def test_opening_and_resetting_streams_costs_little_memory_and_no_other_call(
    server: Program, path: bytes, message: bytes | None
) -> None:
    with SessionClient(server.address) as client, RawConnection(server.address) as attacker:
        token = client.create("ada").token
        flood = attacker.encoded_and_reset(headers(path), message, 40_000)
        before = server.resident_mib
        attacking = threading.Thread(target=_send_as_much_as_possible, args=(attacker, flood))
        attacking.start()
        while attacking.is_alive():
            assert client.validate(token)
        for _ in range(20):  # while the server processes the received data
            assert client.validate(token)
        assert server.resident_mib - before < 60
        attacking.join()


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "stream"), [(PRIORITY, 1), (UNKNOWN, 0)])
def test_meaningless_frames_cost_little_memory(server: Program, kind: int, stream: int) -> None:
    flood = frame(kind, 0, stream, b"\0\0\0\0\x0f") * 4_000
    with SessionClient(server.address, deadline_seconds=30) as client, ExitStack() as stack:
        token = client.create("ada").token
        before = server.resident_mib
        attackers = [stack.enter_context(RawConnection(server.address)) for _ in range(8)]
        ends = time.monotonic() + soaked(long=4.0, short=1.0)
        sending = [
            threading.Thread(target=_send_until, args=(each, flood, ends)) for each in attackers
        ]
        for each in sending:
            each.start()
        peak = before
        while any(each.is_alive() for each in sending):
            assert client.validate(token)
            peak = max(peak, server.resident_mib)
        assert peak < 450


def _send_until(connection: RawConnection, data: bytes, ends: float) -> None:
    while time.monotonic() < ends:
        _send_as_much_as_possible(connection, data)


def _send_as_much_as_possible(connection: RawConnection, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the native host closes the connection
        connection.send(data)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (b"/grpc.health.v1.Health/Check", accept_loop.KEYLESS_CALLS_LIMIT),
        (b"/grpc.health.v1.Health/Watch", accept_loop.KEYLESS_STREAMS_LIMIT),
    ],
)
def test_without_a_key_only_a_few_unfinished_requests_are_in_memory(
    server: Program, path: bytes, limit: int
) -> None:
    assert limit * REQUEST_OF_A_BATCH_BYTES < 160 * 1024 * 1024
    with ExitStack() as stack:
        connections = [
            stack.enter_context(RawConnection(server.address))
            for _ in range(2 * limit // CALLS_AT_ONCE)
        ]
        for connection in connections:
            for _ in range(CALLS_AT_ONCE):
                connection.begin_message(headers(path), REQUEST_OF_A_BATCH_BYTES)
        give_up = time.monotonic() + 4
        while sum(each.open_messages() for each in connections) > limit:
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_a_fast_connection_gets_no_larger_window_for_unread_data(
    server: Program, host: str
) -> None:
    if host == "native":
        pytest.skip("it takes less than a message before it is read")
    path = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with RawConnection(server.address) as connection:
        for _ in range(CALLS_AT_ONCE):
            connection.begin_message(headers(path), REQUEST_OF_A_BATCH_BYTES)
        sent, give_up = 0, time.monotonic() + 10
        while sent < REQUEST_OF_A_BATCH_BYTES - 200_000:  # no message is complete
            assert time.monotonic() < give_up
            sent += connection.continue_messages()
        connection.heard()
        assert connection.window_bytes <= 64 * 1024


def test_a_connection_that_keeps_all_its_calls_busy_is_never_refused(server: Program) -> None:
    # The server counts ended streams until Python frees them.
    with SessionClient(server.address) as client:
        token = client.create("ada").token.reveal()
    body = pb.ValidateSessionRequest(session_token=token).SerializeToString()
    with RawConnection(server.address) as connection:
        for _ in range(BUSY_CALLS):
            connection.call(headers(VALIDATE), body)
        answered = 0
        for kind, flags, content in connection.frames():
            assert kind != RST_STREAM, content
            if kind == HEADERS and flags & END_STREAM:
                answered += 1
                connection.call(headers(VALIDATE), body)
            if answered == 500:
                break


def test_a_flood_without_a_key_leaves_a_few_log_lines_and_a_count(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        with RawConnection(program.address) as connection:
            for _ in range(100):
                calls = [connection.encoded(headers(VALIDATE)) for _ in range(CALLS_AT_ONCE)]
                connection.send(b"".join(calls))
                connection.heard(quiet_seconds=0.02)
        assert program.stop() == 0
    lines = [json.loads(line) for line in program.stderr.splitlines()]
    refused = [line for line in lines if line["event"] == "call refused"]
    counted = [line for line in lines if line["event"] == "more of: call refused"]
    seconds = len(counted) + 2
    assert 0 < len(refused) <= seconds * 10
    assert {line["reason"] for line in counted} == {"API_KEY_MISSING"}
    assert len(refused) + sum(line["lines"] for line in counted) > 500


def test_hundreds_of_calls_abandoned_at_once(server: Program) -> None:
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    with SessionClient(server.address) as client, ExitStack() as stack:
        token = client.create("ada").token.reveal()
        body = pb.ListSessionsRequest(session_token=token).SerializeToString()
        under_way: list[Any] = []
        for _ in range(40):
            channel = stack.enter_context(grpc.insecure_channel(server.address, own_connection))
            call: Any = channel.unary_unary("/session_authority.v1.SessionService/ListSessions")
            under_way += [call.future(body, timeout=10) for _ in range(CALLS_AT_ONCE)]
        under_way[0].result()
        for each in under_way:
            each.cancel()


def test_a_client_that_pings_without_end_is_disconnected(server: Program, host: str) -> None:
    if host == "native":
        pytest.skip("it answers pings without a limit")
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"pingping"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with raw_socket(server) as connection:
        connection.sendall(PREFACE + settings)
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                connection.sendall(ping)
        assert b"too_many_pings" in drain(connection)


async def test_a_burst_of_one_client_is_answered_in_full(
    server: Program,
) -> None:
    async with AsyncSessionClient(server.address) as client:
        token = (await client.create("ada")).token
        assert all(await asyncio.gather(*(client.validate(token) for _ in range(500))))
