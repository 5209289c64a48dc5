"""How both hosts handle calls, whatever the services answer."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.rpc.host import CannotListen, Host
from session_authority_server.rpc.host.native import NativeHost
from tests.support.hosts import HOSTS, new_dispatcher, new_host

SERVICE = "/session_authority.v1.SessionService"
PATIENCE_SECONDS = 10
TURNED_AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
}  # clients retry calls with either status


class Service:
    """A service that accepts every token, and keeps list calls waiting."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def validate_each(self, calls: Sequence[Any]) -> list[Any]:
        return [b"" for _ in calls]

    async def ListSessions(self, _request: Any) -> Any:  # noqa: N802
        self.begun.release()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return pb.ListSessionsResponse(next_page_token="answered")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=HOSTS)
async def host(request: pytest.FixtureRequest, service: Service) -> Host:
    return new_host(request.param, new_dispatcher(service))


@pytest.fixture
async def address(host: Host) -> AsyncIterator[str]:
    address = host.bind("127.0.0.1:0")
    await host.start()
    yield address
    await host.stop(0)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield channel


def call(channel: grpc.aio.Channel, method: str, payload: bytes = b"", **options: Any) -> Any:
    path = method if method.startswith("/") else f"{SERVICE}/{method}"
    multicallable: Any = channel.unary_unary(path)
    return multicallable(payload, **options)


async def listing(channel: grpc.aio.Channel, service: Service) -> "asyncio.Future[bytes]":
    """Start a call. The test decides when it is answered."""
    answer: asyncio.Future[bytes] = asyncio.ensure_future(call(channel, "ListSessions"))
    await asyncio.wait_for(service.begun.acquire(), PATIENCE_SECONDS)
    return answer


async def until_refused(channel: grpc.aio.Channel) -> None:
    while True:
        await call(channel, "ValidateSession", timeout=PATIENCE_SECONDS)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PATIENCE_SECONDS)
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_a_stopping_host_answers_the_calls_in_flight_and_accepts_no_more(
    host: Host, channel: grpc.aio.Channel, service: Service
) -> None:
    in_flight = await listing(channel, service)
    stopping = asyncio.create_task(host.stop(PATIENCE_SECONDS))
    assert await code_of(until_refused(channel)) in TURNED_AWAY
    assert not stopping.done()
    service.go_on.set()
    assert pb.ListSessionsResponse.FromString(await in_flight).next_page_token == "answered"
    await asyncio.wait_for(stopping, PATIENCE_SECONDS / 2)


async def test_a_host_stops_as_soon_as_the_last_call_is_cancelled(
    host: Host, channel: grpc.aio.Channel, service: Service
) -> None:
    in_flight = await listing(channel, service)
    stopping = asyncio.create_task(host.stop(60))
    await asyncio.sleep(0)
    in_flight.cancel()
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    await asyncio.wait_for(service.cancelled.acquire(), PATIENCE_SECONDS)


async def test_a_host_waits_no_longer_than_its_grace_period(
    host: Host, channel: grpc.aio.Channel, service: Service
) -> None:
    in_flight = await listing(channel, service)
    await asyncio.wait_for(host.stop(0.05), PATIENCE_SECONDS)
    assert await code_of(in_flight) in TURNED_AWAY
    await asyncio.wait_for(service.cancelled.acquire(), PATIENCE_SECONDS)


async def test_a_call_ends_when_its_caller_disconnects(address: str, service: Service) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        in_flight = [await listing(channel, service) for _ in range(3)]
    await asyncio.gather(*in_flight, return_exceptions=True)
    for _ in in_flight:
        await asyncio.wait_for(service.cancelled.acquire(), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        f"{SERVICE}/Nope",
        f"{SERVICE}/validatesession",
        f"{SERVICE}/ValidateSession/",
        f"/{SERVICE}/ValidateSession",
        "/session_authority.v2.SessionService/ValidateSession",
    ],
)
async def test_an_unknown_path_is_unimplemented(channel: grpc.aio.Channel, path: str) -> None:
    assert await code_of(call(channel, path)) is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_served(channel: grpc.aio.Channel) -> None:
    answer = await call(channel, "/grpc.health.v1.Health/Check")
    assert health_pb2.HealthCheckResponse.FromString(answer).status == 1


@pytest.mark.parametrize("method", ["ValidateSession", "Nope"])
async def test_metadata_over_the_limit_is_refused_and_affects_no_other_call(
    channel: grpc.aio.Channel, method: str
) -> None:
    metadata = grpc.aio.Metadata(("x-large", "x" * 40_000))
    # The native host answers with HTTP status 431, which gRPC's clients read as UNKNOWN.
    refused = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN}
    assert await code_of(call(channel, method, metadata=metadata)) in refused
    assert await call(channel, "ValidateSession") == b""


async def test_metadata_below_the_limit_is_accepted(channel: grpc.aio.Channel) -> None:
    metadata = grpc.aio.Metadata(("x-large", "x" * 7_000))
    assert await call(channel, "ValidateSession", metadata=metadata) == b""


async def test_a_connection_carries_a_hundred_calls_at_once(
    channel: grpc.aio.Channel, service: Service
) -> None:
    in_flight = [await listing(channel, service) for _ in range(100)]
    assert await call(channel, "ValidateSession") == b""
    service.go_on.set()
    await asyncio.gather(*in_flight)


async def test_a_host_cannot_listen_on_an_address_in_use(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CannotListen):
        host.bind(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.fixture
async def native(service: Service) -> AsyncIterator[NativeHost]:
    host: Any = new_host("native", new_dispatcher(service))
    host.bind("127.0.0.1:0")
    await host.start()
    yield host
    await host.stop(0)


async def test_the_native_host_removes_its_socket_even_with_a_long_path_of_temporary_files(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    host: Any = new_host("native", new_dispatcher(service))
    host.bind("127.0.0.1:0")
    await host.start()
    made = Path(host._folder)
    assert made.stat().st_mode & 0o077 == 0
    await host.stop(0)
    assert not made.exists()


def test_the_native_host_ends_quietly_when_its_event_loop_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    loop = asyncio.new_event_loop()
    host: Any = None

    async def serve() -> str:
        nonlocal host
        host = new_host("native", new_dispatcher(Service()))
        address: str = host.bind("127.0.0.1:0")
        await host.start()
        return address

    address = loop.run_until_complete(serve())
    loop.run_until_complete(host._fallback.stop(0))
    loop.close()
    [thread] = [each for each in threading.enumerate() if each.name == "native-host"]
    with grpc.insecure_channel(address) as channel:
        stub: Any = channel.unary_unary(f"{SERVICE}/ValidateSession")
        with pytest.raises(grpc.RpcError):
            stub(b"", timeout=0.2)
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert raised == []
    host._front.close()


async def test_a_native_host_ends_when_its_http_front_end_stops(native: NativeHost) -> None:
    native._front.close()
    await asyncio.wait_for(native.ended(), PATIENCE_SECONDS)


async def test_a_native_host_ends_when_its_grpcio_host_for_streams_stops(
    native: NativeHost,
) -> None:
    await native._fallback.stop(0)
    await asyncio.wait_for(native.ended(), PATIENCE_SECONDS)
