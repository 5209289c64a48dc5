import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from session_authority import AsyncSessionClient, SessionClient
from tests.unit.client.fake_authority import (
    AioAuthority,
    FakeAuthority,
    RunningAuthority,
    ThreadedAuthority,
)


class Twin:
    """Either client, with every method to be awaited."""

    def __init__(self, client: SessionClient | AsyncSessionClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self.client, name)(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return ask


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
