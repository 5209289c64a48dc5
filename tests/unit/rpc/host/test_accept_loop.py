"""The calls that the host on grpc.aio accepts, and the limit of open calls."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from session_authority_server.observability.metrics import QUEUE_REFUSALS, RPC_ERRORS
from session_authority_server.rpc.host import Health, accept_loop
from tests.support.status import reason_of

PACKAGE = "session_authority.v1"
LIMIT = 3


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    for name in ("STREAMS_LIMIT", "KEYLESS_CALLS_LIMIT", "KEYLESS_STREAMS_LIMIT"):
        monkeypatch.setattr(accept_loop, name, LIMIT)
    server = accept_loop.server(PACKAGE, calls_limit=LIMIT)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add_reflection(ReflectionServicer([]), server)
    server.add_registered_method_handlers(
        f"{PACKAGE}.Ours",
        {
            "Once": grpc.unary_unary_rpc_method_handler(_once),
            "Ever": grpc.stream_stream_rpc_method_handler(_ever),
        },
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _once(request: bytes, _context: Any) -> bytes:
    return request


async def _ever(requests: Any, context: Any) -> None:
    async for request in requests:
        await context.write(request)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def _stream(channel: grpc.aio.Channel, path: str) -> Any:
    """Open a stream, send a message and wait for an answer. Then the stream is certainly open."""
    call: Any = channel.stream_stream(path)()
    await call.write(b"")
    await call.read()
    return call


async def _silently(channel: grpc.aio.Channel, path: str) -> None:
    """Open a stream and read. A read reports a refusal, while a write after it would fail with another error."""
    call: Any = channel.stream_stream(path)()
    await call.read()


async def _watch(channel: grpc.aio.Channel) -> Any:
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    call = watch(b"")
    await call.read()
    return call


async def _repeated(once: Any) -> None:
    while True:
        await once(b"")


async def _refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


_OURS = f"/{PACKAGE}.Ours/Ever"
_ONCE = f"/{PACKAGE}.Ours/Once"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("path", [_OURS, _REFLECTION])
async def test_a_stream_over_the_limit_is_refused_until_one_ends(
    channel: grpc.aio.Channel, path: str
) -> None:
    calls = [await _stream(channel, path) for _ in range(LIMIT)]

    error = await _refusal(_silently(channel, path))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "SERVER_OVERLOADED"
    calls.pop().cancel()
    async with asyncio.timeout(60):
        while True:
            try:
                calls.append(await _stream(channel, path))
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0)
    for call in calls:
        call.cancel()


async def test_streams_without_keys_share_a_limit_of_their_own(
    channel: grpc.aio.Channel,
) -> None:
    calls = [await _watch(channel), await _watch(channel), await _stream(channel, _REFLECTION)]
    before, before_open = _refused("Watch", "SERVER_OVERLOADED"), QUEUE_REFUSALS.value("open")
    assert (await _refusal(_watch(channel))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _refused("Watch", "SERVER_OVERLOADED") == before + 1
    assert QUEUE_REFUSALS.value("open") == before_open + 1

    calls.append(await _stream(channel, _OURS))
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("path", [_ONCE, "/grpc.health.v1.Health/Check"])
async def test_calls_without_a_request_are_limited(channel: grpc.aio.Channel, path: str) -> None:
    once: Any = channel.unary_unary(path)
    assert isinstance(await once(b""), bytes)
    silent: list[Any] = [channel.stream_stream(path)() for _ in range(LIMIT)]
    async with asyncio.timeout(60):
        error = await _refusal(_repeated(once))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in silent:
        call.cancel()


async def test_a_health_call_without_a_request_ends_after_a_timeout(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_loop, "KEYLESS_REQUEST_SECONDS", 0.05)
    path = "/grpc.health.v1.Health/Check"
    silent: Any = channel.stream_stream(path)()
    assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    ended: Any = channel.stream_stream(path)()
    await ended.done_writing()
    assert await ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_a_request_ends_after_a_timeout(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_loop, "OPEN_SECONDS", 0.05)
    silent: list[Any] = [channel.stream_stream(_ONCE)() for _ in range(LIMIT)]
    async with asyncio.timeout(60):
        for call in silent:
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert reason_of(await _refusal(call.read())) == "DEADLINE_EXCEEDED"
        once: Any = channel.unary_unary(_ONCE)
        for _ in range(2 * LIMIT):
            assert await once(b"asked") == b"asked"


async def test_health_is_served_and_an_unknown_service_is_not_found(
    channel: grpc.aio.Channel,
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    error = await _refusal(stub.Check(health_pb2.HealthCheckRequest(service="none")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_an_unregistered_method_is_refused_and_counted(
    channel: grpc.aio.Channel,
) -> None:
    before = _refused("unknown", "UNIMPLEMENTED")
    for path in ("/nope", f"/{PACKAGE}.Ours/Nope", "/grpc.health.v1.Health/Nope"):
        call: Any = channel.unary_unary(path)
        assert (await _refusal(call(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert _refused("unknown", "UNIMPLEMENTED") == before + 3


async def test_a_refused_call_leaves_memory_without_the_garbage_collector(
    channel: grpc.aio.Channel,
) -> None:
    def kept() -> int:
        return sum(type(each).__name__ == "RPCState" for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = kept()
        for _ in range(20):
            call: Any = channel.unary_unary("/nope")
            await _refusal(call(b""))
        assert 0 < before <= kept() <= before + 2  # The latest may still be ending.
    finally:
        gc.enable()


async def test_a_call_over_the_limit_of_refusals_is_cancelled(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [await _stream(channel, _OURS) for _ in range(LIMIT)]
    monkeypatch.setattr(accept_loop, "REFUSALS_LIMIT", 0)
    for path in ("/nope", _OURS):
        assert (await _refusal(_silently(channel, path))).code() is grpc.StatusCode.CANCELLED
    for call in calls:
        call.cancel()


async def test_a_server_stops_while_it_waits_for_calls_and_runs_some(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await _stream(channel, _OURS)


def _refused(method: str, reason: str) -> float:
    codes = {"SERVER_OVERLOADED": "RESOURCE_EXHAUSTED"}
    return RPC_ERRORS.value(method, codes.get(reason, reason), reason)


async def test_the_wait_for_calls_ends_when_the_server_stops() -> None:
    server = accept_loop.server(PACKAGE)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    server.add_insecure_port("127.0.0.1:0")
    acceptor: Any = weakref.ref(server._server)  # type: ignore[attr-defined]
    await server.start()
    await server.stop(None)
    del server
    await asyncio.sleep(0)  # the last of its tasks ends
    gc.collect()
    assert acceptor() is None


async def test_the_buffers_of_a_cancelled_wait_are_kept() -> None:
    # gRPC's core will still write into the buffers.
    unwound: list[bool] = []
    kept: list[Any] = []

    async def request() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            unwound.append(True)

    async def wait() -> None:
        await accept_loop._await_and_keep_if_cancelled(request(), kept)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not unwound
    kept.pop().close()
    assert unwound
