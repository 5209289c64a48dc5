"""Clients with a near cache against a real server: endings, a frozen server, and forks."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from session_authority import (
    AsyncSessionClient,
    NewSession,
    Session,
    SessionAuthorityError,
    SessionClient,
)
from tests.support.program import Program, running
from tests.support.waiting import until
from tests.unit.client.near_cache.conftest import NearTwin

LEASE_SECONDS = 2
# Longest delay that a busy machine may add.
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("near-cache")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Program]:
    with running("serve", "--insecure", "--listen", "127.0.0.1:0", cwd=folder) as program:
        yield program


class Twin(NearTwin):
    """A client with a near cache: `SessionClient` or `AsyncSessionClient`."""

    async def holds(self, token: str) -> Session:
        """Validate a token until the answer comes from memory."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends_at:
            hits = self.statistics.hits
            session = await self.validate(token)
            assert isinstance(session, Session)
            if self.statistics.hits > hits:
                return session
            await asyncio.sleep(0.01)
        raise AssertionError("it is never answered from memory")


@pytest.fixture(params=[SessionClient, AsyncSessionClient], ids=["sync", "aio"])
def client_type(request: pytest.FixtureRequest) -> type[SessionClient | AsyncSessionClient]:
    kind: type[SessionClient | AsyncSessionClient] = request.param
    return kind


@pytest.fixture
async def twin(
    client_type: type[SessionClient | AsyncSessionClient], server: Program
) -> AsyncIterator[Twin]:
    twin = Twin(client_type(server.address, near_cache=True))
    yield twin
    await twin.close()


@pytest.fixture
async def other(server: Program) -> AsyncIterator[AsyncSessionClient]:
    async with AsyncSessionClient(server.address) as client:
        yield client


async def signed_in(client: AsyncSessionClient) -> tuple[NewSession, str]:
    new = await client.create("ada", user_agent="curl/8.5.0")
    return new, new.token.reveal()


@pytest.mark.parametrize("ending", ["sign_out", "revoke", "revoke_others", "reauthenticate"])
async def test_an_ending_by_another_client_holds_from_its_effective_time(
    twin: Twin, other: AsyncSessionClient, ending: str
) -> None:
    new, token = await signed_in(other)
    _, second = await signed_in(other)
    held = await twin.holds(token)
    assert held.session_id == new.session.session_id
    assert held.current

    match ending:
        case "sign_out":
            effective = await other.sign_out(token)
        case "revoke":
            effective = (await other.revoke(second, held.session_id)).effective_time
        case "revoke_others":
            effective = await other.revoke_others(second)
        case _:
            await other.reauthenticate(token)
            effective = datetime.now(UTC)

    # Usually much earlier: within one or two ticks of the server.
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while await twin.validate(token):
        now = datetime.now(UTC)
        if ending != "reauthenticate":
            assert now <= effective
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.005)


async def test_a_clients_own_revocation_takes_effect_immediately(
    twin: Twin, other: AsyncSessionClient
) -> None:
    _, token = await signed_in(other)
    await twin.holds(token)
    await twin.sign_out(token)
    assert not await twin.validate(token)


async def test_a_frozen_server_ends_the_lease_and_the_hits(
    client_type: type[SessionClient | AsyncSessionClient],
    server: Program,
    other: AsyncSessionClient,
) -> None:
    _, token = await signed_in(other)
    twin = Twin(client_type(server.address, near_cache=True, deadline_seconds=1))
    await twin.holds(token)
    server.process.send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        answered = stopped
        while time.monotonic() < stopped + LEASE_SECONDS + 0.5:
            asked, hits = time.monotonic(), twin.statistics.hits
            with contextlib.suppress(SessionAuthorityError):  # sent to a frozen server
                await twin.validate(token)
            if twin.statistics.hits > hits:
                answered = asked
            await asyncio.sleep(0.01)
        # The frozen server answers no further ping.
        assert answered < stopped + LEASE_SECONDS
    finally:
        server.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not twin.statistics.connected:
            await asyncio.sleep(0.05)
    await twin.holds(token)
    await twin.close()


async def test_a_client_reconnects_its_stream_to_a_restarted_server(tmp_path: Path) -> None:
    with running("serve", "--insecure", "--listen", "127.0.0.1:0", cwd=tmp_path) as first:
        address = first.address
        client = AsyncSessionClient(address, near_cache=True)
        twin = Twin(client)
        _, token = await signed_in(client)
        await twin.holds(token)
        first.stop()
    await until(lambda: not twin.statistics.size)
    with running("serve", "--insecure", "--listen", address, cwd=tmp_path) as again:
        assert again.address == address
        await until(lambda: twin.statistics.connected)
        await twin.holds(token)
        await client.close()


@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
async def test_a_forked_process_has_its_own_cache(
    server: Program, other: AsyncSessionClient, way: str
) -> None:
    _, token = await signed_in(other)
    ran = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("near_cache_fork.py"),
            way,
            server.address,
            token,
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
