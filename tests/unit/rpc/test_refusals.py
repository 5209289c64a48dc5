"""The limits of running and waiting calls, and the refusal of further calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from session_authority import AsyncSessionClient
from session_authority import SessionNotLive as NotSignedIn
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import CredentialFault, CredentialRejected
from session_authority_server.observability.metrics import RPC_ERRORS
from session_authority_server.rpc import call_queue, dispatcher
from session_authority_server.rpc.call_queue import CallQueue
from tests.support.hosts import HOSTS, new_dispatcher, serving
from tests.support.status import details_of, reason_of

if TYPE_CHECKING:
    from session_authority.v1.session_service_pb2_grpc import SessionServiceAsyncStub

LIMIT = 3
_PROOF = pb.ReauthenticateSessionRequest(session_token="ses_")
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_UNKNOWN = CredentialRejected(uuid4(), "", CredentialFault.UNKNOWN, _NOON)


class Service:
    """A service that keeps list calls waiting, and rejects every token."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)

    async def validate_each(self, calls: Sequence[Any]) -> list[Any]:
        return [b"" for _ in calls]

    async def ReauthenticateSession(self, _request: Any) -> Any:  # noqa: N802
        self.begun.release()
        await self.go_on.wait()
        return pb.ReauthenticateSessionResponse()

    async def CreateSession(self, _request: Any) -> Any:  # noqa: N802
        return pb.CreateSessionResponse()

    async def ListSessions(self, _request: Any) -> Any:  # noqa: N802
        raise SessionNotLive(rejected=_UNKNOWN)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=HOSTS)
async def address(service: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    queue = CallQueue(running_limit=LIMIT, waiting_limit=LIMIT)
    dispatcher = new_dispatcher(service, queue=queue, rejected_per_minute=2)
    async with serving(request.param, dispatcher) as address:
        yield address


@pytest.fixture
async def stub(address: str) -> AsyncIterator["SessionServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield SessionServiceStub(channel)


async def _refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def _fill(service: Service, stub: "SessionServiceAsyncStub") -> list[Any]:
    """Start calls up to the limit of running calls."""
    calls = [asyncio.ensure_future(stub.ReauthenticateSession(_PROOF)) for _ in range(LIMIT)]
    for _ in calls:
        await asyncio.wait_for(service.begun.acquire(), 60)
    return calls


async def test_a_call_that_finds_the_queue_full_is_refused(
    service: Service, stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "WAIT_SECONDS", 60)
    calls = await _fill(service, stub)
    calls += [asyncio.ensure_future(stub.ReauthenticateSession(_PROOF)) for _ in range(LIMIT + 1)]
    done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    [refused] = done
    error = await _refusal(refused)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "SERVER_OVERLOADED"
    retry = details_of(error, RetryInfo).retry_delay.ToTimedelta()
    assert retry.total_seconds() == 0.25
    service.go_on.set()
    await asyncio.gather(*(call for call in calls if call is not refused))


async def test_a_call_frees_its_place_however_it_ends(
    service: Service, stub: "SessionServiceAsyncStub"
) -> None:
    calls = await _fill(service, stub)
    calls[0].cancel()  # the caller cancels
    await stub.CreateSession(pb.CreateSessionRequest(), timeout=5)
    service.go_on.set()
    await asyncio.gather(*calls[1:])
    for _ in range(LIMIT + 1):  # a call that fails also frees its place
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ListSessions(pb.ListSessionsRequest())
    await asyncio.gather(*(stub.CreateSession(pb.CreateSessionRequest()) for _ in range(LIMIT)))


async def test_a_very_long_deadline_is_shortened(
    stub: "SessionServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_DEADLINE_SECONDS", 0.05)
    error = await _refusal(stub.ReauthenticateSession(_PROOF, timeout=86_400))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(error) == "DEADLINE_EXCEEDED"


async def test_an_error_that_no_retry_fixes_forbids_retries(
    stub: "SessionServiceAsyncStub", address: str
) -> None:
    def refusals() -> float:
        return RPC_ERRORS.value("ListSessions", "RESOURCE_EXHAUSTED", "TOO_MANY_REJECTED_TOKENS")

    for _ in range(2):
        await _refusal(stub.ListSessions(pb.ListSessionsRequest()))
    before = refusals()
    async with AsyncSessionClient(address) as client:
        with pytest.raises(NotSignedIn) as caught:
            await client.list("ses_" + "A" * 70)
    assert caught.value.reason == "TOO_MANY_REJECTED_TOKENS"
    assert refusals() == before + 1
