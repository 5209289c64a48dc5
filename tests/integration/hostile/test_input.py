"""The authority keeps answering after any input on its port."""

import contextlib
import random
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_authority import SessionClient
from session_authority.v1 import session_service_pb2 as pb
from tests.integration.hostile.sockets import CALLS_AT_ONCE, PREFACE, VALIDATE, drain, raw_socket
from tests.support.program import Program, running
from tests.support.raw_http2 import (
    Header,
    RawConnection,
    headers,
)
from tests.support.status import reason_of

pytestmark = pytest.mark.both_hosts

[_SERVICE] = pb.DESCRIPTOR.services_by_name.values()
METHODS = sorted(_SERVICE.methods_by_name)


def _call(server: Program, path: str, body: bytes) -> Any:
    """Call a method with raw bytes, and return the error."""
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            call(body, timeout=10)
        return caught.value


def _no_message(method: str, seed: int) -> bytes:
    """Return random bytes that no method can parse as its request."""
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
    for prefix in [b""] * 20 + [PREFACE] * 20:
        with raw_socket(server) as connection, contextlib.suppress(OSError):
            connection.sendall(prefix + chance.randbytes(chance.randint(1, 20_000)))
            connection.shutdown(socket.SHUT_WR)


def test_http_1(server: Program) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /session_authority.v1.SessionService/ListSessions HTTP/1.1\r\n"
        b"Host: localhost\r\nContent-Length: 99999999\r\n\r\n{}",
    ):
        with raw_socket(server) as connection:
            connection.sendall(request)
            said = drain(connection)
        assert b"200 OK" not in said


def test_half_open_connections(server: Program) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(raw_socket(server)).sendall(PREFACE[:12])
        with SessionClient(server.address) as client:
            new = client.create("ada")
            for _ in range(50):
                assert client.validate(new.token)


def test_connections_that_are_cut_in_the_middle_of_a_request(server: Program) -> None:
    for cut in range(1, len(PREFACE) + 20, 3):
        with raw_socket(server) as connection:
            connection.sendall((PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 3)[:cut])


@pytest.mark.parametrize("method", METHODS)
def test_random_bytes_as_a_message_are_malformed(server: Program, method: str) -> None:
    for seed in range(20):
        error = _call(
            server, f"/session_authority.v1.SessionService/{method}", _no_message(method, seed)
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(error) == "MALFORMED_REQUEST"
        assert f"{method}Request" in error.details()


def test_a_text_that_is_not_utf_8_is_malformed(server: Program) -> None:
    error = _call(server, "/session_authority.v1.SessionService/CreateSession", b"\n\x02\xff\xfe")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "MALFORMED_REQUEST"


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
    assert reason_of(error) == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize("method", METHODS)
def test_a_message_of_2_mib_is_too_large(server: Program, method: str) -> None:
    error = _call(server, f"/session_authority.v1.SessionService/{method}", b"x" * 2 * 1024 * 1024)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "path",
    [b"/\xff", b"\xff", b"", b"nope", b"/a\x00b", VALIDATE + b"\xff", b"/" + b"\xc3" * 10_000],
    ids=["not UTF-8", "no slash", "empty", "bare", "nul", "nearly known", "long"],
)
def test_an_unusual_path_is_refused_and_affects_no_other_call(
    server: Program, host: str, path: bytes
) -> None:
    with SessionClient(server.address) as client, RawConnection(server.address) as connection:
        token = client.create("ada").token
        connection.call(headers(path))
        # The native host resets the call, or ends its connection.
        connection.wait_for(b"grpc-status\x0212" if host == "grpcio" else b"")  # UNIMPLEMENTED
        assert client.validate(token)  # on the earlier connection


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
def test_an_unusual_header_affects_no_other_call(server: Program, header: Header) -> None:
    # The native host ends some connections.
    with contextlib.suppress(ConnectionError), RawConnection(server.address) as connection:
        for _ in range(3):
            connection.call(headers(VALIDATE, header))
        connection.wait_for()
    with RawConnection(server.address) as connection:
        connection.call(headers(VALIDATE, header), message=None)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_call_without_its_first_header(server: Program, count: int) -> None:
    with RawConnection(server.address) as connection:
        some = headers(VALIDATE)
        connection.call([*some[:count], *some[count + 1 :]])
        connection.heard()


def test_thousands_of_paths_that_are_not_utf_8_delay_no_other_caller(server: Program) -> None:
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


_UNGUARDED = """
from session_authority_server.cli import main
from session_authority_server.rpc.host import accept_loop

async def _request_call(self):
    return await accept_loop._next_call(self, super(accept_loop._BoundedServer, self)._request_call)

accept_loop._BoundedServer._request_call = _request_call
main()
"""


def test_the_process_ends_if_the_accept_loop_ends(tmp_path: Path, host: str) -> None:
    # The supervisor can then start another process.
    if host == "native":
        pytest.skip("it passes no such path on")
    arguments = ["serve", "--insecure", "--listen", "127.0.0.1:0"]
    command, settings = [sys.executable, "-c", _UNGUARDED], {"SESSION_AUTHORITY_DRAIN_SECONDS": "1"}
    with (
        running(*arguments, cwd=tmp_path, settings=settings, command=command) as program,
        grpc.insecure_channel(program.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())  # continues meanwhile
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with RawConnection(program.address) as connection:
            connection.call(headers(b"/\xff"))
            assert program.exit_code() == 1
    assert "gRPC stopped accepting calls" in program.stderr
