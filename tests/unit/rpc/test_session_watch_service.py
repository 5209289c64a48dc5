import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from session_authority.v1 import session_watch_service_pb2 as pb
from session_authority.v1.session_watch_service_pb2_grpc import SessionWatchServiceStub
from session_authority_server.domain.errors import ApiKeyRevoked, AuthorityError
from session_authority_server.domain.session import Changes
from session_authority_server.rpc.authentication import ANONYMOUS, Caller
from session_authority_server.rpc.session_watch_service import (
    MINIMUM_PING_INTERVAL_SECONDS,
    SessionWatchService,
    encode_changes,
    encode_pong,
)
from session_authority_server.watch.hub import SILENCE_SECONDS, STREAMS_LIMIT, Hub
from session_authority_server.watch.sqlite_channel import SqliteChannel
from tests.support.hosts import HOSTS, new_dispatcher, serving

WATCH = "/session_authority.v1.SessionWatchService/WatchSessions"
LEASE = timedelta(seconds=2)
PATIENCE_SECONDS = 60.0


class Watched:
    """A server with only this service, and a switch that permits or refuses callers."""

    def __init__(self) -> None:
        self.refusal: AuthorityError | None = None
        self.time_passed = 0.0
        self.channel = SqliteChannel(self._no_turn)
        self.hub = Hub(
            self.channel,
            encode_changes,
            encode_pong(LEASE),
            lambda: time.monotonic() + self.time_passed,
        )
        self.service = SessionWatchService(self.hub, self.authenticate)

    def authenticate(self, method: str, metadata: Any) -> Caller:
        assert method == WATCH
        if self.refusal is not None:
            raise self.refusal
        return ANONYMOUS

    async def _no_turn(self) -> None:
        pass


class Call:
    """One stream, as its caller sees it."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.WatchSessions()

    async def ping(self, ping_id: int) -> None:
        await self._call.write(pb.WatchSessionsRequest(ping=pb.Ping(ping_id=ping_id)))

    async def sends(self, request: pb.WatchSessionsRequest) -> None:
        await self._call.write(request)

    async def receives(self) -> pb.WatchSessionsResponse:
        async with asyncio.timeout(PATIENCE_SECONDS):
            response: pb.WatchSessionsResponse = await self._call.read()
        return response

    async def opened(self) -> "Call":
        await self.ping(1)
        assert (await self.receives()).pong.ping_id == 1
        return self

    async def fails(self) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        """Return the code, reason and metadata of the stream's status."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            code = await self._call.code()
            metadata = dict(await self._call.trailing_metadata())
        info = ErrorInfo()
        details = Status.FromString(metadata["grpc-status-details-bin"]).details
        assert details[0].Unpack(info)
        assert all(
            each.Is(RetryInfo.DESCRIPTOR) for each in details[1:] if code.name != "INVALID_ARGUMENT"
        )
        return code, info.reason, dict(info.metadata)

    async def sends_no_more(self) -> None:
        await self._call.done_writing()

    async def finishes(self) -> grpc.StatusCode:
        await self._call.done_writing()
        async with asyncio.timeout(PATIENCE_SECONDS):
            code: grpc.StatusCode = await self._call.code()
        return code

    def cancel(self) -> None:
        self._call.cancel()


@pytest.fixture
async def watched() -> Watched:
    return Watched()


@pytest.fixture(params=HOSTS)
async def channel(
    watched: Watched, request: pytest.FixtureRequest
) -> AsyncIterator[grpc.aio.Channel]:
    dispatcher = new_dispatcher(authenticate=watched.authenticate)
    streams = {WATCH: watched.service.WatchSessions}
    async with AsyncExitStack() as stack:
        for ever in (watched.channel.run(watched.hub), watched.hub.run()):
            task = asyncio.create_task(ever)
            stack.callback(task.cancel)
        address = await stack.enter_async_context(serving(request.param, dispatcher, streams))
        yield await stack.enter_async_context(grpc.aio.insecure_channel(address))


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return SessionWatchServiceStub(channel)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_pong_gives_the_lease(stub: Any) -> None:
    call = Call(stub)
    await call.ping(7)
    pong = (await call.receives()).pong
    assert pong.ping_id == 7
    assert pong.lease.ToTimedelta() == LEASE


async def test_changes_are_sent_by_session_and_user(watched: Watched, stub: Any) -> None:
    call = await Call(stub).opened()
    watched.hub.changed(Changes({UUID(int=5)}, {"ann"}))
    assert (await call.receives()).evict == pb.Evict(
        session_ids=[str(UUID(int=5))], user_ids=["ann"]
    )
    watched.hub.changed(Changes(everybody=True))
    assert (await call.receives()).evict == pb.Evict(all=True)


async def test_the_limit_of_calls_does_not_apply_to_streams(stub: Any) -> None:
    for _ in range(3):
        await Call(stub).opened()


async def test_a_stream_ends_when_its_caller_finishes(watched: Watched, stub: Any) -> None:
    call = await Call(stub).opened()
    assert await call.finishes() is grpc.StatusCode.OK
    await until(lambda: not watched.hub.streams)


async def test_a_ping_is_answered_before_a_finished_stream_ends(
    stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        call = Call(stub)
        await call.ping(1)
        await call.sends_no_more()
        assert (await call.receives()).pong.ping_id == 1
        assert await call.finishes() is grpc.StatusCode.OK
    assert "ExecuteBatchError" not in caplog.text


async def test_a_caller_that_disconnects_is_removed(
    watched: Watched,
    stub: Any,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (await Call(stub).opened()).cancel()
    await until(lambda: not watched.hub.streams)
    assert "Traceback" not in caplog.text + "".join(capsys.readouterr())


async def test_a_message_without_a_ping_is_refused(stub: Any) -> None:
    call = await Call(stub).opened()
    await call.sends(pb.WatchSessionsRequest())
    assert await call.fails() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {})


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
        (b"\x12" * 70_000, grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
    ],
)
async def test_bytes_that_are_not_a_message_are_refused(
    channel: grpc.aio.Channel, sent: bytes, code: grpc.StatusCode, reason: str
) -> None:
    method: Any = channel.stream_stream(WATCH)

    class Raw:
        WatchSessions = staticmethod(method)

    call = Call(Raw)
    await call.sends(sent)  # type: ignore[arg-type]
    found = await call.fails()
    assert found[:2] == (code, reason)


async def test_a_caller_that_loses_its_permission_gets_the_reason(
    watched: Watched, stub: Any
) -> None:
    call = await Call(stub).opened()
    watched.service.check()
    assert len(watched.hub.streams) == 1
    watched.refusal = ApiKeyRevoked()
    watched.service.check()
    assert await call.fails() == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_REVOKED", {})


async def test_callers_are_checked_repeatedly(
    watched: Watched, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority_server.rpc.session_watch_service.CHECK_SECONDS", 0.01)
    checking = asyncio.create_task(watched.service.keep_checking())
    call = await Call(stub).opened()
    watched.refusal = ApiKeyRevoked()
    assert (await call.fails())[1] == "API_KEY_REVOKED"
    checking.cancel()


async def test_a_silent_caller_gets_a_timeout_error(watched: Watched, stub: Any) -> None:
    call = await Call(stub).opened()
    watched.time_passed = SILENCE_SECONDS + 1
    watched.service.check()
    assert await call.fails() == (
        grpc.StatusCode.UNAVAILABLE,
        "WATCH_INTERRUPTED",
        {"cause": "SILENT"},
    )


async def test_a_stream_over_the_limit_is_refused(watched: Watched, stub: Any) -> None:
    others = [watched.hub.join() for _ in range(STREAMS_LIMIT)]
    refused = (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS",
        {"limit": str(STREAMS_LIMIT)},
    )
    assert await Call(stub).fails() == refused
    watched.hub.leave(others[0])
    await Call(stub).opened()


async def test_a_draining_server_ends_its_streams(watched: Watched, stub: Any) -> None:
    call = await Call(stub).opened()
    watched.hub.drain()
    drained = (grpc.StatusCode.UNAVAILABLE, "WATCH_INTERRUPTED", {"cause": "DRAINING"})
    assert await call.fails() == drained
    assert await Call(stub).fails() == drained


async def test_the_stream_of_a_caller_that_does_not_read_ends_and_still_counts(
    watched: Watched, channel: grpc.aio.Channel
) -> None:
    slow: Any = channel.stream_stream(WATCH)()
    await slow.write(pb.WatchSessionsRequest(ping=pb.Ping(ping_id=1)).SerializeToString())
    await until(lambda: watched.hub.streams)
    async with asyncio.timeout(60):
        while watched.hub.streams:  # about 64 KiB are buffered on the way
            watched.hub.changed(Changes(user_ids={f"{number:0200}" for number in range(1_000)}))
            watched.hub.tick()
            await asyncio.sleep(0)
    assert watched.hub.open_streams == 1
    slow.cancel()
    await until(lambda: watched.hub.open_streams == 0)


async def test_a_caller_that_pings_without_pause_is_read_at_a_limited_rate(
    watched: Watched, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await Call(stub).opened()
    read: list[int] = []
    monkeypatch.setattr(watched.hub, "pinged", lambda _, ping_id: read.append(ping_id))

    async def flood() -> None:
        ping_id = 0
        while True:
            ping_id += 1
            await call.ping(ping_id)

    started = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(10 * MINIMUM_PING_INTERVAL_SECONDS):
            await flood()
    took = time.monotonic() - started
    assert 1 <= len(read) <= took / MINIMUM_PING_INTERVAL_SECONDS + 2
    call.cancel()
