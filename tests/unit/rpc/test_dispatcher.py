import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from structlog.testing import capture_logs

from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain.errors import SessionNotFound
from session_authority_server.observability.metrics import RPC_ERRORS
from session_authority_server.rpc import dispatcher, methods
from tests.support.hosts import HOSTS, new_dispatcher, serving
from tests.support.status import details_of, reason_of

if TYPE_CHECKING:
    from session_authority.v1.session_service_pb2_grpc import SessionServiceAsyncStub

SECRET = "ses_" + "7" * 70
REQUEST = pb.ListSessionsRequest(session_token=SECRET)


class Service:
    """A service that runs the test's functions."""

    def __init__(self) -> None:
        self.does: Callable[[], Awaitable[Any]]
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def ListSessions(self, _request: Any) -> Any:  # noqa: N802
        self.begun.set()
        try:
            await self.does()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return pb.ListSessionsResponse()

    async def BatchValidateSessions(self, _request: Any) -> Any:  # noqa: N802
        return pb.BatchValidateSessionsResponse()

    async def validate_each(self, calls: Sequence[Any]) -> list[Any]:
        await self.does()
        return [b"" for _ in calls]


async def _forever() -> None:
    await asyncio.Event().wait()


async def _nothing() -> None:
    pass


@pytest.fixture(params=HOSTS)
async def address_and_service(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[str, Service]]:
    service: Any = Service()
    async with serving(request.param, new_dispatcher(service)) as address:
        yield address, service


@pytest.fixture
def service(address_and_service: tuple[str, Service]) -> Service:
    return address_and_service[1]


@pytest.fixture
async def stub(
    address_and_service: tuple[str, Service],
) -> AsyncIterator["SessionServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(address_and_service[0]) as channel:
        yield SessionServiceStub(channel)


async def _error(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_call_without_a_deadline_gets_one(
    service: Service, stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "DEADLINE_SECONDS", 0.05)
    service.does = _forever

    error = await _error(stub.ListSessions(REQUEST))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(error) == "DEADLINE_EXCEEDED"
    assert service.cancelled.is_set()


async def test_a_callers_own_deadline_is_kept(
    service: Service, stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "DEADLINE_SECONDS", 0.01)

    async def slowly() -> None:
        await asyncio.sleep(0.1)

    service.does = slowly
    assert await stub.ListSessions(REQUEST, timeout=10) == pb.ListSessionsResponse()


async def test_a_callers_shorter_deadline_ends_the_work(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    service.does = _forever

    error = await _error(stub.ListSessions(REQUEST, timeout=0.1))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(service.cancelled.wait(), 60)


@pytest.mark.parametrize("timeout", [None, 10], ids=["imposed-deadline", "own-deadline"])
async def test_an_unexpected_error_is_internal_and_only_the_log_shows_it(
    service: Service, stub: "SessionServiceAsyncStub", timeout: float | None
) -> None:
    async def fail() -> None:
        raise RuntimeError(f"no room for {SECRET} on /dev/sda1")

    service.does = fail
    with capture_logs() as logs:
        error = await _error(stub.ListSessions(REQUEST, timeout=timeout))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"
    shown = f"{error.details()} {error.trailing_metadata()!r} {error.debug_error_string()}"
    assert SECRET not in shown
    assert "sda1" not in shown
    assert "RuntimeError" not in shown
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert line["event"] == "unexpected failure"
    assert line["method"] == "ListSessions"
    assert isinstance(line["exc_info"], RuntimeError)


async def test_a_domain_error_is_answered_as_in_the_error_table_and_counted(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    async def refuse() -> None:
        raise SessionNotFound

    def count() -> float:
        return RPC_ERRORS.value("ListSessions", "NOT_FOUND", "SESSION_NOT_FOUND")

    service.does = refuse
    before = count()
    with capture_logs() as logs:
        error = await _error(stub.ListSessions(REQUEST))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert count() == before + 1
    assert {line["log_level"] for line in logs} <= {"info", "warning"}
    assert SECRET not in repr(logs)


async def test_a_cancelled_call_is_no_error_and_later_calls_are_answered(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    service.does = _forever
    with capture_logs() as logs:
        call = stub.ListSessions(REQUEST)
        answer = asyncio.ensure_future(call)
        await asyncio.wait_for(service.begun.wait(), 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await asyncio.wait_for(service.cancelled.wait(), 60)

    assert [line for line in logs if line["log_level"] in {"error", "critical"}] == []
    service.does = _nothing
    assert await stub.ListSessions(REQUEST) == pb.ListSessionsResponse()


async def test_a_slow_call_is_logged(
    service: Service, stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SLOW_SECONDS", 0.0)
    service.does = _nothing
    with capture_logs() as logs:
        await stub.ListSessions(REQUEST)
    assert [line["event"] for line in logs] == ["slow call"]


async def test_malformed_requests_are_not_internal_errors(
    address_and_service: tuple[str, Service],
) -> None:
    async with grpc.aio.insecure_channel(address_and_service[0]) as channel:
        call: Any = channel.unary_unary("/session_authority.v1.SessionService/ValidateSession")
        error = await _error(call(b"\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "MALFORMED_REQUEST"


@pytest.mark.parametrize(
    ("method", "limit_bytes"),
    [
        ("ValidateSession", methods.REQUEST_LIMIT_BYTES),
        ("BatchValidateSessions", methods.BATCH_REQUEST_LIMIT_BYTES),
    ],
)
async def test_a_request_may_be_exactly_as_large_as_its_limit(
    address_and_service: tuple[str, Service], method: str, limit_bytes: int
) -> None:
    address, service = address_and_service
    service.does = _nothing
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(f"/session_authority.v1.SessionService/{method}")
        assert await call(_of_size(limit_bytes)) == b""
        error = await _error(call(_of_size(limit_bytes + 1)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "REQUEST_TOO_LARGE"
    assert details_of(error, ErrorInfo).metadata == {"limit_bytes": str(limit_bytes)}


def _of_size(size: int) -> bytes:
    """Return a message of the given size, with one unknown field."""
    filler = size - 6
    length = bytes([filler & 0x7F | 0x80, filler >> 7 & 0x7F | 0x80, filler >> 14 & 0x7F | 0x80, 0])
    return b"\xfa\x06" + length + b"x" * filler
