"""The stream that both clients follow, in event loops, threads and child processes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    ClientClosed,
    Session,
    SessionClient,
    Unavailable,
)
from session_authority._concurrency_sync import Background
from session_authority.near_cache.core import Due
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    FakeAuthority,
    RunningAuthority,
    ThreadedAuthority,
)
from tests.support.waiting import until
from tests.unit.client.conftest import Twin, answer_by_token, tokens_asked
from tests.unit.client.near_cache.conftest import NearTwin


async def test_the_stream_identifies_the_caller(near: NearTwin, authority: FakeAuthority) -> None:
    assert authority.watch.metadata["authorization"] == "Bearer key-1"


@pytest.mark.parametrize("change", ["session", "user", "everything"])
async def test_a_session_that_the_stream_evicts_is_validated_again(
    near: NearTwin, authority: FakeAuthority, change: str
) -> None:
    await near.validate("t-1")
    if change == "session":
        authority.watch.evict("s-1")
    else:
        authority.watch.evict(
            users=("ana",) if change == "user" else (), everything=change == "everything"
        )
    await until(lambda: near.statistics.size == 0)
    assert await near.validate("t-1")
    assert tokens_asked(authority) == ["t-1", "t-1"]


async def test_hits_end_within_the_lease_after_the_last_pong(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    authority = authority_by_token
    authority.watch.lease = timedelta(seconds=0.5)
    near = NearTwin(client_type(authority.address, near_cache=True))
    await near.connected()
    await until(lambda: authority.watch.pings > 3)
    await near.validate("t-1")
    authority.watch.mute = True
    began = time.monotonic()
    hits = near.statistics.hits
    await until(lambda: (near.statistics.lease_age_seconds or 9) > 0.5)
    await near.validate("t-1")
    assert near.statistics.hits == hits
    assert time.monotonic() - began < 15  # a lease may last 30 seconds
    assert near.statistics.size == 1  # the entry is kept but not used
    authority.watch.mute = False
    await until(lambda: (near.statistics.lease_age_seconds or 9) < 0.5)
    await near.close()


async def test_a_stream_that_no_longer_answers_is_replaced(
    client_type: type[SessionClient | AsyncSessionClient],
    authority_by_token: FakeAuthority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("session_authority.near_cache.lease.STALE_AFTER_SECONDS", 0.2)
    authority = authority_by_token
    authority.watch.lease = timedelta(seconds=0.2)
    near = NearTwin(client_type(authority.address, near_cache=True))
    await near.connected()
    authority.watch.mute = True
    await until(lambda: authority.watch.opened > 1)
    authority.watch.mute = False
    await until(lambda: near.statistics.connected)
    await near.close()


@pytest.mark.parametrize(
    "end", [grpc.StatusCode.UNAVAILABLE, b"\xff\xff", b""], ids=["status", "garbage", "unknown"]
)
async def test_a_stream_that_is_lost_clears_the_cache_and_is_opened_again(
    near: NearTwin, authority: FakeAuthority, end: Any
) -> None:
    await near.validate("t-1")
    authority.watch.send_to_all(end)
    await until(lambda: near.statistics.size == 0)
    await until(lambda: authority.watch.opened == 2 and near.statistics.connected)
    assert await near.validate("t-1")
    assert await near.validate("t-1")
    assert tokens_asked(authority) == ["t-1", "t-1"]


async def test_an_unexpected_error_in_the_stream_clears_the_cache_and_the_client_continues(
    near: NearTwin, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    await near.validate("t-1")
    with monkeypatch.context() as patch:
        patch.setattr("session_authority.near_cache.stream.apply", lambda *_: 1 / 0)
        authority.watch.evict("s-2")
        await until(lambda: near.statistics.size == 0)
        await until(lambda: "ZeroDivisionError" in str(near.statistics.problem))
    await until(lambda: near.statistics.connected)


async def test_a_stream_that_ends_in_order_is_opened_again(
    near: NearTwin, authority: FakeAuthority
) -> None:
    authority.watch.end()
    await until(lambda: authority.watch.opened == 2 and near.statistics.connected)


async def test_without_a_stream_every_validation_is_a_call(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    authority = authority_by_token
    authority.watch.refused = grpc.StatusCode.PERMISSION_DENIED
    near = NearTwin(client_type(authority.address, near_cache=True))
    for _ in range(3):
        assert await near.validate("t-1")
    await until(lambda: near.statistics.problem)
    assert "rejects this program" in str(near.statistics.problem)
    assert await near.validate("t-1")
    assert len(authority.calls) == 4
    assert near.statistics.hits == 0
    await asyncio.sleep(0.3)
    assert authority.watch.opened == 1  # the client does not retry often
    await near.close()


async def test_an_authority_that_stops_ends_all_hits(
    near: NearTwin, running: RunningAuthority
) -> None:
    await near.validate("t-1")
    await running.stop()
    await until(lambda: near.statistics.size == 0)
    with pytest.raises(Unavailable):
        await near.validate("t-1")


@pytest.fixture
def threaded() -> Iterator[FakeAuthority]:
    authority = ThreadedAuthority()
    authority.fake.answers_by("ValidateSession", answer_by_token)
    yield authority.fake
    authority.stop_now()


async def test_event_loops_share_the_cache_and_one_stream(threaded: FakeAuthority) -> None:
    client = AsyncSessionClient(threaded.address, near_cache=True)
    near = NearTwin(client)
    await near.connected()
    await client.validate("t-1")

    async def elsewhere() -> None:
        assert await client.validate("t-1")
        assert await client.validate("t-2")

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert tokens_asked(threaded) == ["x-to-begin", "t-1", "t-2"]
    assert await client.validate("t-2")
    assert threaded.watch.opened == 1
    assert near.statistics.hits == 2
    await client.close()


def test_another_event_loop_follows_the_stream_after_the_first_has_ended(
    threaded: FakeAuthority,
) -> None:
    client = AsyncSessionClient(threaded.address, near_cache=True)
    near = NearTwin(client)
    with asyncio.Runner() as first:

        async def here() -> None:
            await near.connected()
            await client.validate("t-1")

        async def elsewhere() -> None:
            await client.validate("t-2")
            await until(lambda: threaded.watch.opened == 2 and near.statistics.connected)
            assert await client.validate("t-1")
            await client.close()

        first.run(here())
        with asyncio.Runner() as second:
            second.run(elsewhere())


async def test_a_client_closed_on_another_loop_is_closed_everywhere(
    threaded: FakeAuthority,
) -> None:
    client = AsyncSessionClient(threaded.address, near_cache=True)
    await NearTwin(client).connected()
    await asyncio.to_thread(asyncio.run, client.close())
    await until(lambda: threaded.watch.streams == 0)
    with pytest.raises(ClientClosed):
        await client.validate("t-1")
    await client.close()


def with_a_report_due(threaded: FakeAuthority) -> SessionClient:
    """Return a client that caches the session of `t-1` and reports its next use."""
    client = SessionClient(threaded.address, near_cache=True)
    asyncio.run(NearTwin(client).connected())
    assert client.validate("t-1", passive=True)
    return client


def test_a_hit_is_answered_even_if_the_client_is_closed_meanwhile(threaded: FakeAuthority) -> None:
    client = with_a_report_due(threaded)

    class Address:
        def __str__(
            self,
        ) -> str:  # runs after the hit and before the report
            client.close()
            return "192.0.2.1"

    address: Any = Address()
    assert isinstance(client.validate("t-1", ip_address=address), Session)
    with pytest.raises(ClientClosed):
        client.validate("t-1")


def test_validations_are_answered_if_no_thread_can_start(
    threaded: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("session-authority"):  # the fake authority has threads, too
            raise RuntimeError("can't start new thread")
        started(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with SessionClient(threaded.address, near_cache=True) as client:
            assert client.validate("t-1")
    with with_a_report_due(threaded) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert client.validate("t-1")
        threaded.calls.clear()
        client._near.core._on_due(Due("t-1"))  # type: ignore[union-attr]
        asyncio.run(until(lambda: tokens_asked(threaded)))


def test_a_connection_made_while_the_client_closes_leaves_no_thread(
    threaded: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SessionClient(threaded.address, near_cache=True)

    def close() -> None:
        batcher = client._connection().batcher
        if not reporting:  # as another thread does with the connection that it found
            reporting.append(batcher._reporter)
            batcher.report(v1.ValidateSessionRequest(session_token="t-1"))
        raise ClientClosed

    reporting: list[Background] = []
    monkeypatch.setattr(client, "_check_open", close)
    with pytest.raises(ClientClosed):
        client._connection()
    thread = reporting[0]._thread
    assert thread is not None
    assert not thread.is_alive()


async def test_a_child_process_starts_with_an_empty_cache(near: NearTwin) -> None:
    await near.validate("t-1")
    parent = near.client._near
    near.client.forget_in_child()
    statistics = near.statistics
    assert (statistics.size, statistics.hits, statistics.misses) == (0, 0, 0)
    assert not statistics.connected
    assert parent is not None
    stopped: Any = parent.stop()
    if stopped is not None:
        await stopped


async def test_without_a_near_cache_there_is_no_stream(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    twin = Twin(client_type(authority_by_token.address))
    for _ in range(2):
        assert await twin.validate("t-1")
    assert twin.client.near_cache_statistics is None
    twin.client.forget_in_child()
    assert twin.client.near_cache_statistics is None
    assert [call.method for call in authority_by_token.calls] == ["ValidateSession"] * 2
    assert authority_by_token.watch.opened == 0
    await twin.close()
