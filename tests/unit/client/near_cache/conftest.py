from collections.abc import AsyncIterator

import pytest

from session_authority import AsyncSessionClient, NearCacheStatistics, SessionClient
from tests.support.fake_authority import FakeAuthority
from tests.support.waiting import until
from tests.unit.client.conftest import Twin
from tests.unit.client.near_cache.play import Play


class NearTwin(Twin):
    """A client with a near cache: `SessionClient` or `AsyncSessionClient`."""

    async def connected(self) -> None:
        await self.validate("x-to-begin")
        await until(lambda: self.statistics.connected)

    @property
    def statistics(self) -> NearCacheStatistics:
        found = self.client.near_cache_statistics
        assert found is not None
        return found


@pytest.fixture
async def near(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> AsyncIterator[NearTwin]:
    near = NearTwin(
        client_type(
            authority_by_token.address, api_key="key-1", deadline_seconds=5, near_cache=True
        )
    )
    await near.connected()
    authority_by_token.calls.clear()
    yield near
    await near.close()


@pytest.fixture
def play() -> Play:
    return Play()
