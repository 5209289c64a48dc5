import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from session_authority import AsyncSessionClient, Rejection, RejectionReason, SessionClient
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    AioAuthority,
    FakeAuthority,
    RunningAuthority,
    ThreadedAuthority,
    batch_of,
    session_message,
)

PATIENCE_SECONDS = 15
NOT_FOUND = Rejection(RejectionReason.NOT_FOUND)
UNPRESENTABLE = [None, "", "sés_", "ses_\udcff", "ses_" + "A" * 5000]


def answer_by_token(request: v1.ValidateSessionRequest) -> v1.ValidateSessionResponse:
    """Answer for token `t-1` with session `s-1`, live and just used, and so on. Reject tokens that begin with `x`."""
    now = time.time()
    token = request.session_token
    if token.startswith("x"):
        return v1.ValidateSessionResponse(
            rejection=v1.Rejection(reason=v1.REJECTION_REASON_REVOKED)
        )
    message = session_message(token.replace("t-", "s-"))
    message.last_active_time.FromNanoseconds(int(now * 1e9))
    return v1.ValidateSessionResponse(session=message)


def tokens_asked(authority: FakeAuthority) -> list[str]:
    """Return every token that a call has asked about."""
    asked: list[str] = []
    for call in [*authority.calls]:
        requests = getattr(call.request, "requests", [call.request])
        asked += [request.session_token for request in requests]
    return asked


class Twin:
    """`SessionClient` or `AsyncSessionClient`. Tests await each method of both."""

    def __init__(self, client: SessionClient | AsyncSessionClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self.client, name)(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return ask


class Gate:
    """Gate that holds the calls to an authority until the test opens it."""

    def __init__(self, authority: FakeAuthority) -> None:
        self._held = authority.hold = threading.Event()

    def open(self) -> None:
        self._held.set()


Ask = Callable[..., "asyncio.Future[Any]"]


def asking(twin: Twin, threads: ThreadPoolExecutor) -> Ask:
    """Return a function that validates in a separate task or thread."""

    def asks(token: str, **question: Any) -> "asyncio.Future[Any]":
        client = twin.client
        if isinstance(client, AsyncSessionClient):
            return asyncio.ensure_future(client.validate(token, **question))
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(threads, lambda: client.validate(token, **question))

    return asks


@pytest.fixture(params=[SessionClient, AsyncSessionClient], ids=["sync", "aio"])
def client_type(request: pytest.FixtureRequest) -> type[SessionClient | AsyncSessionClient]:
    kind: type[SessionClient | AsyncSessionClient] = request.param
    return kind


@pytest.fixture
async def running(
    client_type: type[SessionClient | AsyncSessionClient],
) -> AsyncIterator[RunningAuthority]:
    authority: RunningAuthority
    if client_type is SessionClient:
        authority = ThreadedAuthority()
    else:
        authority = served = AioAuthority()
        await served.start()
    yield authority
    await authority.stop()


@pytest.fixture
def authority(running: RunningAuthority) -> FakeAuthority:
    return running.fake


@pytest.fixture
async def twin(
    client_type: type[SessionClient | AsyncSessionClient], authority: FakeAuthority
) -> AsyncIterator[Twin]:
    twin = Twin(client_type(authority.address, api_key="key-1", deadline_seconds=5))
    yield twin
    await twin.close()


@pytest.fixture
def authority_by_token(authority: FakeAuthority) -> FakeAuthority:
    authority.answers_by("ValidateSession", answer_by_token)
    authority.answers_by("BatchValidateSessions", batch_of(answer_by_token))
    return authority


@pytest.fixture
def brief_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, in tests of other things."""
    monkeypatch.setattr("session_authority._retries.MAX_PAUSE_SECONDS", 0.005)
