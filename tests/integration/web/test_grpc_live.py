"""Streams of gRPC services, which end with the session of their caller."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from session_authority import AsyncSessionClient, NewSession, SessionClient, testing
from session_authority.grpc import (
    AsyncSessionInterceptor,
    SessionInterceptor,
    current_session,
    token_metadata,
)
from tests.integration.web.live_connections import (
    End,
    connected,
    ending,
    expire,
    reauthenticate,
    revoke,
    revoke_others,
    signed_in,
    sweep,
)
from tests.support.soak import soaked
from tests.support.status import reason_of
from tests.support.waiting import until

KINDS = ["UnaryStream", "StreamUnary", "StreamStream"]
SECONDS = 60
# Of each of ten callers at once.
STREAMS = soaked(long=100, short=10)
SIGNED_OUT = (grpc.StatusCode.UNAUTHENTICATED, "SESSION_NOT_LIVE")
OUTAGE = (grpc.StatusCode.UNAVAILABLE, "")


class Threaded:
    """A service whose handlers wait as threads do: until the call is over."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def UnaryStream(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:  # noqa: N802
        over = threading.Event()
        context.add_callback(over.set)
        yield current_session().user_id.encode()
        over.wait(SECONDS)
        self.left.append("UnaryStream")
        yield b"too late"  # gRPC ignores it

    def StreamUnary(self, requests: Iterator[bytes], _context: object) -> bytes:  # noqa: N802
        try:
            return f"{sum(1 for _ in requests)}".encode()
        finally:
            self.left.append("StreamUnary")

    def StreamStream(self, requests: Iterator[bytes], _context: object) -> Iterator[bytes]:  # noqa: N802
        try:
            for request in requests:
                if request == b"fail":
                    raise ValueError("the app's own")
                yield request
        finally:
            self.left.append("StreamStream")


class Asynchronous:
    def __init__(self) -> None:
        self.left: list[str] = []

    async def UnaryStream(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:  # noqa: N802
        try:
            yield current_session().user_id.encode()
            await asyncio.Event().wait()
        finally:
            self.left.append("UnaryStream")

    async def StreamUnary(self, requests: AsyncIterator[bytes], _context: object) -> bytes:  # noqa: N802
        try:
            return f"{len([request async for request in requests])}".encode()
        finally:
            self.left.append("StreamUnary")

    async def StreamStream(self, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: N802
        try:
            async for request in requests:
                if request == b"fail":
                    raise ValueError("the app's own")
                await context.write(request)
        finally:
            self.left.append("StreamStream")


class Service:
    def __init__(self, implementation: Any, client: Any, address: str) -> None:
        self.implementation = implementation
        self.client = client
        self.address = address

    @property
    def left(self) -> list[str]:
        left: list[str] = self.implementation.left
        return left

    @property
    def subscriptions(self) -> int:
        return len(self.client._near.keeper()._endings)


def handlers(implementation: Any) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        "shop.Cart",
        {
            "UnaryStream": grpc.unary_stream_rpc_method_handler(implementation.UnaryStream),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(implementation.StreamUnary),
            "StreamStream": grpc.stream_stream_rpc_method_handler(implementation.StreamStream),
        },
    )


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@pytest.fixture(params=["threads", "asyncio"])
async def service(
    request: pytest.FixtureRequest, authority: testing.Authority
) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        client: Any
        server: Any
        implementation: Any
        stop: Callable[[], Awaitable[None]]
        if request.param == "threads":
            client = stack.enter_context(SessionClient(authority.address, near_cache=True))
            client.validate("ses_x")
            await until(lambda: client.near_cache_statistics.connected)
            threads = stack.enter_context(ThreadPoolExecutor(16))
            server = grpc.server(threads, interceptors=[SessionInterceptor(client)])
            implementation = Threaded()
        else:
            client = await stack.enter_async_context(
                AsyncSessionClient(authority.address, near_cache=True)
            )
            await connected(client)
            server = grpc.aio.server(interceptors=[AsyncSessionInterceptor(client)])
            implementation = Asynchronous()
        server.add_generic_rpc_handlers((handlers(implementation),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        if request.param == "threads":
            server.start()
            stack.callback(lambda: server.stop(None).wait())
        else:
            await server.start()
            stop = lambda: server.stop(None)  # noqa: E731
            stack.push_async_callback(stop)
        yield Service(implementation, client, address)


class Stream:
    """The caller's side of a stream, after its first message."""

    def __init__(self, address: str, kind: str, new: NewSession) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._kind = kind
        self._call: Any = None
        self._metadata = token_metadata(new.token)

    async def __aenter__(self) -> "Stream":
        channel: Any = self._channel
        kind = self._kind
        make = {
            "UnaryStream": channel.unary_stream,
            "StreamUnary": channel.stream_unary,
            "StreamStream": channel.stream_stream,
        }[kind]
        method = make(f"/shop.Cart/{kind}")
        if kind == "UnaryStream":
            self._call = method(b"", metadata=self._metadata, timeout=SECONDS)
            assert await self._call.read() == b"ada"
            return self
        self._call = method(metadata=self._metadata, timeout=SECONDS)
        await self._call.write(b"first")
        if kind == "StreamStream":
            assert await self._call.read() == b"first"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, message: bytes) -> None:
        await self._call.write(message)

    async def status(self) -> tuple[grpc.StatusCode, str]:
        trailing = await self._call.trailing_metadata()
        return await self._call.code(), reason_of(
            SimpleNamespace(trailing_metadata=lambda: trailing)
        )

    async def finish(self) -> bytes:
        await self._call.done_writing()
        answer: bytes = await self._call
        return answer


@pytest.mark.parametrize(
    ("kinds", "end", "status"),
    [
        (KINDS, revoke, SIGNED_OUT),
        (["UnaryStream"], revoke_others, SIGNED_OUT),
        (["UnaryStream"], sweep, SIGNED_OUT),
        (["UnaryStream"], reauthenticate, SIGNED_OUT),
        (["UnaryStream"], expire, SIGNED_OUT),
        (KINDS, None, OUTAGE),
    ],
)
async def test_silent_streams_end_when_their_session_ends(
    service: Service,
    authority: testing.Authority,
    kinds: list[str],
    end: End | None,
    status: tuple[grpc.StatusCode, str],
) -> None:
    new = signed_in(authority, end or revoke)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(Stream(service.address, kind, new)) for kind in kinds
        ]
        await until(lambda: service.subscriptions == len(kinds))
        with ending(authority, new, end):
            for stream in streams:
                assert await stream.status() == status
        await until(lambda: sorted(service.left) == sorted(kinds))
    await until(lambda: service.subscriptions == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_the_client_cancels_leaves_no_subscription(
    service: Service, authority: testing.Authority, kind: str
) -> None:
    new = authority.sign_in("ada")
    async with Stream(service.address, kind, new):
        await until(lambda: service.subscriptions == 1)
    await until(lambda: service.left == [kind])
    await until(lambda: service.subscriptions == 0)


async def test_a_stream_of_a_live_session_is_answered(
    service: Service, authority: testing.Authority
) -> None:
    async with Stream(service.address, "StreamUnary", authority.sign_in("ada")) as stream:
        assert await stream.finish() == b"1"


async def test_an_exception_of_the_handler_is_its_own(
    service: Service, authority: testing.Authority
) -> None:
    async with Stream(service.address, "StreamStream", authority.sign_in("ada")) as stream:
        await stream.send(b"fail")
        assert await stream.status() == (grpc.StatusCode.UNKNOWN, "")
    await until(lambda: service.subscriptions == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_without_a_session_is_refused(service: Service, kind: str) -> None:
    channel: Any
    async with grpc.aio.insecure_channel(service.address) as channel:
        make = {
            "UnaryStream": lambda: channel.unary_stream(f"/shop.Cart/{kind}")(b""),
            "StreamUnary": lambda: channel.stream_unary(f"/shop.Cart/{kind}")(),
            "StreamStream": lambda: channel.stream_stream(f"/shop.Cart/{kind}")(),
        }
        assert await make[kind]().code() is grpc.StatusCode.UNAUTHENTICATED
    assert service.left == []


async def test_beyond_the_limit_of_subscriptions_streams_are_unavailable(
    service: Service, authority: testing.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority.near_cache.endings.SUBSCRIPTIONS_LIMIT", 0)
    channel: Any
    async with grpc.aio.insecure_channel(service.address) as channel:
        metadata = token_metadata(authority.sign_in("ada").token)
        call = channel.unary_stream("/shop.Cart/UnaryStream")(b"", metadata=metadata)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.soak
async def test_streams_leave_no_subscription_behind(
    service: Service, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")

    async def open_and_close() -> None:
        channel: Any
        async with grpc.aio.insecure_channel(service.address) as channel:
            method = channel.stream_stream("/shop.Cart/StreamStream")
            for number in range(STREAMS):
                call = method(metadata=token_metadata(new.token))
                await call.write(b"1")
                assert await call.read() == b"1"
                if number % 2:
                    call.cancel()
                else:
                    await call.done_writing()
                    assert await call.code() is grpc.StatusCode.OK

    await asyncio.gather(*(open_and_close() for _ in range(10)))
    await until(lambda: service.subscriptions == 0)
