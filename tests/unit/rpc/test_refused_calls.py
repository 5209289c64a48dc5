"""The log line of a refused call, and the request id that its caller gets, on both hosts."""

import re
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain.api_key import Permission, issue
from session_authority_server.domain.errors import ApiKeyInvalid, SessionNotFound
from session_authority_server.rpc.authentication import Caller
from tests.support.hosts import HOSTS, NoSessions, new_dispatcher, serving

KEY, PRESENTED = issue("app", frozenset(Permission), datetime(2026, 1, 1, tzinfo=UTC), None)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GENERATED = re.compile("[0-9a-f]{32}")


class Service(NoSessions):
    """Fails in a way that each method stands for."""

    async def RevokeSession(self, _request: Any) -> Any:  # noqa: N802
        raise AssertionError("the caller was refused")

    async def ListSessions(self, _request: Any) -> Any:  # noqa: N802
        raise SessionNotFound

    async def SignOut(self, _request: Any) -> Any:  # noqa: N802
        raise OSError(f"no room for {PRESENTED}")

    async def validate_each(self, calls: Any) -> Any:
        raise OSError("the disk is gone")


def authenticate(path: str, _metadata: Any) -> Caller:
    if path.endswith("/RevokeSession"):
        raise ApiKeyInvalid
    return Caller(str(KEY.key_id))


@pytest.fixture(params=HOSTS)
async def stub(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    dispatcher = new_dispatcher(Service(), authenticate=authenticate)
    async with (
        serving(request.param, dispatcher) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield SessionServiceStub(channel)


async def _refused(
    call: Awaitable[Any],
) -> tuple[grpc.aio.AioRpcError, list[Any], str]:
    """Return the error of a call, its lines in the log, and the request id that the caller got."""
    with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailing = dict(caught.value.trailing_metadata())
    # A busy machine can add other lines, for example about a slow event loop.
    logs = [line for line in lines if "reason" in line]
    return caught.value, logs, trailing["x-request-id"]


@pytest.mark.parametrize(
    ("method", "request_", "event", "reason"),
    [
        ("RevokeSession", pb.RevokeSessionRequest(), "call refused", "API_KEY_INVALID"),
        ("ListSessions", pb.ListSessionsRequest(), "call refused", "SESSION_NOT_FOUND"),
        (
            "ListSessions",
            pb.ListSessionsRequest(session_token="x" * 100_000),
            "call refused",
            "REQUEST_TOO_LARGE",
        ),
        ("SignOut", pb.SignOutRequest(), "unexpected failure", "INTERNAL"),
        ("ValidateSession", pb.ValidateSessionRequest(), "unexpected failure", "INTERNAL"),
    ],
)
async def test_a_refused_call_is_logged_once_with_its_origin(
    stub: Any, method: str, request_: Any, event: str, reason: str
) -> None:
    metadata = (
        ("authorization", f"Bearer {PRESENTED}"),
        ("x-request-id", "web-1/7f:3"),
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
    )
    error, logs, request_id = await _refused(getattr(stub, method)(request_, metadata=metadata))
    [line] = logs
    assert (line["event"], line["method"], line["reason"]) == (event, method, reason)
    assert line["code"] == error.code().name
    assert line["key_id"] == str(KEY.key_id)
    assert re.fullmatch(r"(ipv4:)?127\.0\.0\.1:\d+", line["peer"])
    assert line["request_id"] == request_id == "web-1/7f:3"
    assert line["trace_id"] == TRACE
    assert PRESENTED not in repr({**line, "exc_info": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-id", "x" * 129),
        ("x-request-id", "two words"),
        ("x-request-id", 'a"b'),
        ("x-request-id", ""),
        ("x-request-id-bin", b"web-1"),
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7"),
        ("traceparent", f"ff-{TRACE}-00f067aa0ba902b7-01"),
        ("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01"),
        ("traceparent", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"),
        ("authorization", "a damaged key"),
    ],
)
async def test_unsafe_metadata_is_not_logged_and_each_call_gets_an_id(
    stub: Any, name: str, value: str | bytes
) -> None:
    if value == "a damaged key":
        value = f"Bearer {PRESENTED[:-1]}"
    call = stub.RevokeSession(pb.RevokeSessionRequest(), metadata=((name, value),))
    _, [line], request_id = await _refused(call)
    assert GENERATED.fullmatch(request_id)
    assert line["request_id"] == request_id
    assert "trace_id" not in line
    assert line["key_id"] == ""
    assert not value or str(value) not in repr(line)


async def test_a_failure_of_many_validations_is_logged_in_full_once() -> None:
    dispatcher = new_dispatcher(Service(), authenticate=authenticate)
    async with (
        serving("native", dispatcher) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = SessionServiceStub(channel)
        with capture_logs() as logs:
            calls = [stub.ValidateSession(pb.ValidateSessionRequest()) for _ in range(20)]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
    full = [line for line in logs if line["event"] == "unexpected failure"]
    assert len(logs) == 20
    assert 1 <= len(full) < 20
    assert len({line["request_id"] for line in logs}) == 20
