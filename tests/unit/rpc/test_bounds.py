"""How many calls are taken on at once, and what those are told that are not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from session_authority import AsyncSessionClient
from session_authority import SessionNotLive as NotSignedIn
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    SessionServiceStub,
    add_SessionServiceServicer_to_server,
)
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import CredentialFault, CredentialRejected
from session_authority_server.rpc import interceptor
from session_authority_server.rpc.authentication import anybody
from session_authority_server.rpc.interceptor import CallInterceptor
from session_authority_server.rpc.rejected_tokens import RejectedTokens
from tests.acceptance.authority import a_session

if TYPE_CHECKING:
    from session_authority.v1.session_service_pb2_grpc import SessionServiceAsyncStub

LIMIT = 3
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_UNKNOWN = CredentialRejected(uuid4(), "", CredentialFault.UNKNOWN, _NOON)
_SUPERSEDED = CredentialRejected(uuid4(), "ada", CredentialFault.SUPERSEDED, _NOON)


class Service(SessionServiceServicer):
    """Keeps validations waiting, and knows no session."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)

    async def ValidateSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.begun.release()
        await self.go_on.wait()
        return pb.ValidateSessionResponse()

    async def CreateSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.CreateSessionResponse()

    async def SignOut(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.SignOutResponse()

    async def ListSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise SessionNotLive(rejected=_UNKNOWN)

    async def RevokeSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise SessionNotLive(rejected=_SUPERSEDED, superseded=a_session("ada", _NOON)[0])

    async def RevokeOtherSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise SessionNotLive  # the session has ended, or the text is no token


@pytest.fixture
def service() -> Service:
    return Service()  # type: ignore[abstract]  # the other methods are not called


@pytest.fixture
async def address(service: Service) -> AsyncIterator[str]:
    rejected = RejectedTokens(ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), 2)
    bounded = CallInterceptor(
        "session_authority.v1", anybody, max_in_flight_calls=LIMIT, rejected=rejected
    )
    server = grpc.aio.server(interceptors=[bounded])
    add_SessionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def stub(address: str) -> AsyncIterator["SessionServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield SessionServiceStub(channel)


def _validation() -> pb.ValidateSessionRequest:
    return pb.ValidateSessionRequest(session_token="ses_")


async def _refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, ErrorInfo, RetryInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, retry = ErrorInfo(), RetryInfo()
    [value] = [
        value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"
    ]
    assert isinstance(value, bytes)
    for detail in Status.FromString(value).details:
        assert detail.Unpack(info) or detail.Unpack(retry)
    return caught.value.code(), info, retry


async def _fill(service: Service, stub: "SessionServiceAsyncStub") -> list[Any]:
    """Have as many calls under way as may be."""
    calls = [asyncio.ensure_future(stub.ValidateSession(_validation())) for _ in range(LIMIT)]
    for _ in calls:
        await asyncio.wait_for(service.begun.acquire(), 60)
    return calls


async def test_a_call_beyond_the_limit_is_refused_at_once_and_told_when_to_return(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    calls = await _fill(service, stub)

    code, info, retry = await asyncio.wait_for(_refusal(stub.ValidateSession(_validation())), 2)

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info.reason, info.domain) == ("SERVER_OVERLOADED", "session-authority")
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0.25
    assert not any(call.done() for call in calls)
    service.go_on.set()
    assert await asyncio.gather(*calls) == [pb.ValidateSessionResponse()] * LIMIT


async def test_there_is_room_again_when_calls_end_however_they_end(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    calls = await _fill(service, stub)
    calls[0].cancel()  # given up by the caller

    async def until_there_is_room() -> None:
        while True:
            try:
                await stub.CreateSession(pb.CreateSessionRequest())
            except grpc.aio.AioRpcError:
                continue
            return

    await asyncio.wait_for(until_there_is_room(), 60)
    service.go_on.set()
    await asyncio.gather(*calls[1:])
    for _ in range(LIMIT + 1):  # failures leave no trace either
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ListSessions(pb.ListSessionsRequest())
    await asyncio.gather(*(stub.CreateSession(pb.CreateSessionRequest()) for _ in range(LIMIT)))


async def test_refusals_leave_one_line_in_the_log_not_one_each(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    await _fill(service, stub)
    with capture_logs() as logs:
        for _ in range(10):
            await _refusal(stub.ValidateSession(_validation()))
    assert [line["event"] for line in logs] == ["overloaded; refusing calls"]
    service.go_on.set()


async def test_an_empty_bucket_refuses_unknown_proofs_and_nothing_else(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    service.go_on.set()
    reasons = [
        (await _refusal(stub.ListSessions(pb.ListSessionsRequest())))[1].reason for _ in "123"
    ]
    assert reasons == ["SESSION_NOT_LIVE", "SESSION_NOT_LIVE", "TOO_MANY_REJECTED_TOKENS"]

    code, info, retry = await _refusal(stub.ListSessions(pb.ListSessionsRequest()))

    assert (code, info.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_REJECTED_TOKENS",
    )
    assert retry.retry_delay.ToTimedelta().total_seconds() == 30  # of two a minute
    assert await stub.ValidateSession(_validation()) == pb.ValidateSessionResponse()
    assert await stub.CreateSession(pb.CreateSessionRequest()) == pb.CreateSessionResponse()
    assert await stub.SignOut(pb.SignOutRequest()) == pb.SignOutResponse()


async def test_proofs_that_are_known_or_malformed_are_not_counted(
    stub: "SessionServiceAsyncStub",
) -> None:
    for _ in range(5):
        superseded = await _refusal(stub.RevokeSession(pb.RevokeSessionRequest()))
        ended = await _refusal(stub.RevokeOtherSessions(pb.RevokeOtherSessionsRequest()))
        assert superseded[1].reason == ended[1].reason == "SESSION_NOT_LIVE"
    _, info, _ = await _refusal(stub.ListSessions(pb.ListSessionsRequest()))
    assert info.reason == "SESSION_NOT_LIVE"


async def test_an_absurdly_long_deadline_is_cut_short(
    stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "LONGEST_DEADLINE_SECONDS", 0.05)
    code, info, _ = await _refusal(stub.ValidateSession(_validation(), timeout=86_400))
    assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_services_of_others_are_not_counted(service: Service) -> None:
    async def answer(request: Empty, context: Any) -> Empty:
        return request

    handler: Any = grpc.unary_unary_rpc_method_handler(
        answer, Empty.FromString, Empty.SerializeToString
    )
    bounded = CallInterceptor("session_authority.v1", anybody, max_in_flight_calls=0)
    server = grpc.aio.server(interceptors=[bounded])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("another.Service", {"Empty": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/another.Service/Empty")
        assert await call(b"") == b""
    await server.stop(None)


async def test_a_client_is_told_not_to_repeat_what_no_repetition_mends(
    stub: "SessionServiceAsyncStub", address: str
) -> None:
    def refusals() -> float:
        labels = {"method": "ListSessions", "reason": "TOO_MANY_REJECTED_TOKENS"}
        return REGISTRY.get_sample_value("session_authority_rpc_errors_total", labels) or 0

    for _ in range(2):
        await _refusal(stub.ListSessions(pb.ListSessionsRequest()))
    before = refusals()
    async with AsyncSessionClient(address) as client:
        with pytest.raises(NotSignedIn) as caught:
            await client.list("ses_" + "A" * 70)
    assert caught.value.reason == "TOO_MANY_REJECTED_TOKENS"
    assert refusals() == before + 1
