"""Whatever arrives on the port, the authority goes on answering."""

import asyncio
import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_authority import AsyncSessionClient, SessionClient
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.rpc.host import accept_loop
from tests.support.program import Program, running, serving
from tests.support.raw_http2 import (
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Header,
    RawConnection,
    headers,
)

[_SERVICE] = pb.DESCRIPTOR.services_by_name.values()
METHODS = sorted(_SERVICE.methods_by_name)
_VALIDATE = b"/session_authority.v1.SessionService/ValidateSession"
CALLS_AT_ONCE = 8
BUSY_CALLS = 100  # as many as each connection may have
pytestmark = pytest.mark.both_hosts
REQUEST_OF_A_BATCH_BYTES = 1024 * 1024
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Program]:
    """A server of this module's own: what is done to it here should not upset other tests."""
    with serving(tmp_path_factory.mktemp("hostile"), host=host) as program:
        yield program
        assert "Traceback" not in program.stderr
        assert program.stop() == 0


@pytest.fixture(autouse=True)
def goes_on_answering(server: Program) -> Iterator[None]:
    yield
    with SessionClient(server.address) as client:
        new = client.create("ada")
        assert client.validate(new.token)
    assert server.process.poll() is None
    assert "Traceback" not in server.stderr


def _socket(server: Program) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def _drain(connection: socket.socket) -> bytes:
    """Read until the server has nothing more to say, or hangs up."""
    connection.settimeout(0.5)
    said = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while data := connection.recv(65_536):
            said += data
    return said


def _call(server: Program, path: str, body: bytes) -> Any:
    """Send bytes as they are, and return the error."""
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            call(body, timeout=10)
        return caught.value


def _reason(error: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    assert info.domain == "session-authority"
                    return str(info.reason)
    return ""


def _no_message(method: str, seed: int) -> bytes:
    """Return random bytes that are no request of a method."""
    kind: type[Message] = getattr(pb, f"{method}Request")
    chance = random.Random(seed)
    while True:
        body = chance.randbytes(chance.randint(1, 500))
        try:
            kind.FromString(body)
        except DecodeError:
            return body


def test_random_bytes_on_the_socket(server: Program) -> None:
    chance = random.Random(1)
    for prefix in [b""] * 20 + [_PREFACE] * 20:
        with _socket(server) as connection, contextlib.suppress(OSError):
            connection.sendall(prefix + chance.randbytes(chance.randint(1, 20_000)))
            connection.shutdown(socket.SHUT_WR)


def test_http_1(server: Program) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /session_authority.v1.SessionService/ListSessions HTTP/1.1\r\n"
        b"Host: localhost\r\nContent-Length: 99999999\r\n\r\n{}",
    ):
        with _socket(server) as connection:
            connection.sendall(request)
            said = _drain(connection)
        assert b"200 OK" not in said


def test_half_open_connections(server: Program) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(_socket(server)).sendall(_PREFACE[:12])
        with SessionClient(server.address) as client:
            new = client.create("ada")
            for _ in range(50):
                assert client.validate(new.token)


def test_connections_that_vanish_in_mid_request(server: Program) -> None:
    for cut in range(1, len(_PREFACE) + 20, 3):
        with _socket(server) as connection:
            connection.sendall((_PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 3)[:cut])


@pytest.mark.parametrize("method", METHODS)
def test_random_bytes_as_a_message_are_called_malformed(server: Program, method: str) -> None:
    for seed in range(20):
        error = _call(
            server, f"/session_authority.v1.SessionService/{method}", _no_message(method, seed)
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _reason(error) == "MALFORMED_REQUEST"
        assert f"{method}Request" in error.details()


def test_a_text_that_is_not_utf_8_is_called_malformed(server: Program) -> None:
    error = _call(server, "/session_authority.v1.SessionService/CreateSession", b"\n\x02\xff\xfe")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert _reason(error) == "MALFORMED_REQUEST"


@pytest.mark.parametrize("method", METHODS)
def test_a_message_of_65_kib_is_too_large_unless_it_is_a_batch(
    server: Program, method: str
) -> None:
    path = f"/session_authority.v1.SessionService/{method}"
    if method == "BatchValidateSessions":
        request = pb.ValidateSessionRequest(session_token="x" * 65)
        body = pb.BatchValidateSessionsRequest(requests=[request] * 1_000).SerializeToString()
        assert len(body) > 65 * 1024
        with grpc.insecure_channel(server.address) as channel:
            call: Any = channel.unary_unary(path)
            answer = call(body, timeout=10)
        assert len(pb.BatchValidateSessionsResponse.FromString(answer).responses) == 1_000
        return
    error = _call(server, path, b"\n" + b"\x80\x88\x04" + b"x" * 65 * 1024)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _reason(error) == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize("method", METHODS)
def test_a_message_of_2_mib_is_too_large(server: Program, method: str) -> None:
    error = _call(server, f"/session_authority.v1.SessionService/{method}", b"x" * 2 * 1024 * 1024)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "path",
    [
        "/session_authority.v1.SessionService/Nope",
        "/session_authority.v1.SessionService/validatesession",
        "/session_authority.v1.NoService/ValidateSession",
        "/nope",
        "/",
        "//",
    ],
)
def test_an_unknown_method_is_not_implemented(server: Program, path: str) -> None:
    assert _call(server, path, b"").code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "path",
    [b"/\xff", b"\xff", b"", b"nope", b"/a\x00b", _VALIDATE + b"\xff", b"/" + b"\xc3" * 10_000],
    ids=["not UTF-8", "no slash", "empty", "bare", "nul", "nearly known", "long"],
)
def test_a_path_that_no_client_of_ours_would_send_is_refused_and_ends_nothing_else(
    server: Program, host: str, path: bytes
) -> None:
    with SessionClient(server.address) as client, RawConnection(server.address) as connection:
        token = client.create("ada").token
        connection.call(headers(path))
        # The native host resets the call, or ends its connection.
        connection.wait_for(b"grpc-status\x0212" if host == "grpcio" else b"")  # UNIMPLEMENTED
        assert client.validate(token)  # on the connection of before


@pytest.mark.parametrize(
    "header",
    [
        (b"x-name", b"\xff\xfe"),
        (b"x-\xff", b"value"),
        (b"X-Name", b"value"),
        (b"authorization", b"Bearer sak_\xff"),
        (b"user-agent", b"\xff"),
        (b"x-name-bin", b"!!! no base64"),
        (b"x-name-bin", b"A"),
        (b"grpc-timeout", b"soon"),
        (b"grpc-timeout", b"\xff"),
        (b"grpc-timeout", b"-5S"),
        (b"grpc-timeout", b"9" * 40 + b"H"),
        (b"grpc-timeout", b"0n"),
        (b"grpc-encoding", b"\xff"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"\xff,none-such"),
        (b"grpc-trace-bin", b"\xff!"),
        (b"grpc-previous-rpc-attempts", b"\xff"),
        (b"lb-token", b"\xff"),
        (b":path", b"/\xff"),
        (b":authority", b"\xff"),
        (b"content-type", b"\xff"),
    ],
    ids=lambda header: repr(header[:2])[:40],
)
def test_a_header_that_no_client_of_ours_would_send_ends_nothing(
    server: Program, header: Header
) -> None:
    # The native host ends some connections.
    with contextlib.suppress(ConnectionError), RawConnection(server.address) as connection:
        for _ in range(3):
            connection.call(headers(_VALIDATE, header))
        connection.wait_for()
    with RawConnection(server.address) as connection:
        connection.call(headers(_VALIDATE, header), message=None)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_call_without_the_first_of_its_headers(server: Program, count: int) -> None:
    with RawConnection(server.address) as connection:
        some = headers(_VALIDATE)
        connection.call([*some[:count], *some[count + 1 :]])
        connection.heard()


def test_thousands_of_paths_that_are_not_utf_8_leave_time_for_others(server: Program) -> None:
    lines = len(server.stderr.splitlines())
    with SessionClient(server.address) as client:
        token = client.create("ada").token
        for _ in range(100):
            with ExitStack() as stack:  # the native host ends such connections
                for _ in range(5):
                    connection = stack.enter_context(RawConnection(server.address))
                    calls = [connection.encoded(headers(b"/\xff")) for _ in range(CALLS_AT_ONCE)]
                    connection.send(b"".join(calls))
                assert client.validate(token)
    assert len(server.stderr.splitlines()) - lines < 50


@pytest.mark.parametrize("message", [None, b""], ids=["headers", "headers and a message"])
@pytest.mark.parametrize("path", [_VALIDATE, b"/nope"], ids=["known", "unknown"])
def test_streams_that_are_opened_and_reset_cost_little_memory_and_no_call_of_others(
    server: Program, path: bytes, message: bytes | None
) -> None:
    with SessionClient(server.address) as client, RawConnection(server.address) as attacker:
        token = client.create("ada").token
        flood = attacker.encoded_and_reset(headers(path), message, 40_000)
        before = server.resident_mib
        attacking = threading.Thread(target=_send_what_is_taken, args=(attacker, flood))
        attacking.start()
        while attacking.is_alive():
            assert client.validate(token)
        for _ in range(20):  # while the server goes through what it received
            assert client.validate(token)
        assert server.resident_mib - before < 60
        attacking.join()


def _send_what_is_taken(connection: RawConnection, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the native host hangs up
        connection.send(data)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (b"/grpc.health.v1.Health/Check", accept_loop.KEYLESS_CALLS_LIMIT),
        (b"/grpc.health.v1.Health/Watch", accept_loop.KEYLESS_STREAMS_LIMIT),
    ],
)
def test_few_unfinished_requests_are_in_memory_without_a_key(
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


def test_a_fast_connection_gets_no_more_room_for_what_the_server_has_not_read(
    server: Program, host: str
) -> None:
    if host == "native":
        pytest.skip("it takes less than a message before it is read")
    path = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with RawConnection(server.address) as connection:
        for _ in range(CALLS_AT_ONCE):
            connection.begin_message(headers(path), REQUEST_OF_A_BATCH_BYTES)
        sent, give_up = 0, time.monotonic() + 10
        while sent < REQUEST_OF_A_BATCH_BYTES - 200_000:  # no message is whole
            assert time.monotonic() < give_up
            sent += connection.continue_messages()
        connection.heard()
        assert connection.window_bytes <= 64 * 1024


def test_a_connection_that_keeps_all_its_calls_busy_is_never_refused(server: Program) -> None:
    # The server counts streams that have ended until Python lets go of them.
    with SessionClient(server.address) as client:
        token = client.create("ada").token.reveal()
    body = pb.ValidateSessionRequest(session_token=token).SerializeToString()
    with RawConnection(server.address) as connection:
        for _ in range(BUSY_CALLS):
            connection.call(headers(_VALIDATE), body)
        answered = 0
        for kind, flags, content in connection.frames():
            assert kind != RST_STREAM, content
            if kind == HEADERS and flags & END_STREAM:
                answered += 1
                connection.call(headers(_VALIDATE), body)
            if answered == 500:
                break


def test_a_flood_without_a_key_leaves_some_lines_in_the_log_and_their_number(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        with RawConnection(program.address) as connection:
            for _ in range(100):
                calls = [connection.encoded(headers(_VALIDATE)) for _ in range(CALLS_AT_ONCE)]
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


_UNGUARDED = """
from session_authority_server.cli import main
from session_authority_server.rpc.host import accept_loop

async def _request_call(self):
    return await accept_loop._taken_on(self, super(accept_loop._Acceptor, self)._request_call)

accept_loop._Acceptor._request_call = _request_call
main()
"""


def test_should_the_accept_loop_end_all_the_same_the_process_does_too(
    tmp_path: Path, host: str
) -> None:
    # So that whoever keeps it starts one anew.
    if host == "native":
        pytest.skip("it passes no such path on")
    arguments = ["serve", "--insecure", "--listen", "127.0.0.1:0"]
    command, settings = [sys.executable, "-c", _UNGUARDED], {"SESSION_AUTHORITY_DRAIN_SECONDS": "1"}
    with (
        running(*arguments, cwd=tmp_path, settings=settings, command=command) as program,
        grpc.insecure_channel(program.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())  # goes on meanwhile
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with RawConnection(program.address) as connection:
            connection.call(headers(b"/\xff"))
            assert program.exit_code() == 1
    assert "gRPC takes no more calls on" in program.stderr


def test_metadata_over_the_limit_is_refused(server: Program, host: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/session_authority.v1.SessionService/ValidateSession")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10, metadata=(("x-filler", "x" * 100_000),))
    # The native host answers with HTTP status 431, which gRPC's clients read as UNKNOWN, or ends the connection.
    if host == "grpcio":
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    else:
        assert caught.value.code() in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}


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


def test_who_pings_without_end_is_hung_up_on(server: Program, host: str) -> None:
    if host == "native":
        pytest.skip("it answers pings without a limit")
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"pingping"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with _socket(server) as connection:
        connection.sendall(_PREFACE + settings)
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                connection.sendall(ping)
        assert b"too_many_pings" in _drain(connection)


async def test_a_burst_of_one_client_waits_for_itself_and_is_answered_in_full(
    server: Program,
) -> None:
    async with AsyncSessionClient(server.address) as client:
        token = (await client.create("ada")).token
        assert all(await asyncio.gather(*(client.validate(token) for _ in range(500))))
