import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from session_authority import AsyncSessionClient, NearCacheStatistics, SessionClient
from session_authority.v1 import session_service_pb2 as v1
from tests.unit.client.conftest import Twin
from tests.unit.client.fake_authority import (
    FakeAuthority,
    batch_of,
    session_message,
)

PATIENCE_SECONDS = 60


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what another thread or task is about to do."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "it didn't happen"
        await asyncio.sleep(0.005)


def answer_by_token(request: v1.ValidateSessionRequest) -> v1.ValidateSessionResponse:
    """Take the token `t-1` for that of the session `s-1`, live and just used; `x...` for one that is dead."""
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
    """Every token that has been asked about, in whichever call."""
    asked: list[str] = []
    for call in [*authority.calls]:
        requests = getattr(call.request, "requests", [call.request])
        asked += [request.session_token for request in requests]
    return asked


class NearTwin(Twin):
    """Either client with a near cache."""

    async def connected(self) -> None:
        await self.validate("x-to-begin")
        await until(lambda: self.statistics.connected)

    @property
    def statistics(self) -> NearCacheStatistics:
        found = self.client.near_cache_statistics
        assert found is not None
        return found


@pytest.fixture
def authority_by_token(authority: FakeAuthority) -> FakeAuthority:
    authority.answers_by("ValidateSession", answer_by_token)
    authority.answers_by("BatchValidateSessions", batch_of(answer_by_token))
    return authority


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
