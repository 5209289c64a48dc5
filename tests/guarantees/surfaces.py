"""Seven surfaces that accept a session while it is live: four answer requests, and three keep connections open."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from session_authority import AsyncSessionClient, NewSession
from session_authority.grpc import AsyncSessionInterceptor
from session_authority.web.fastapi import CurrentSession, Sessions
from tests.support.waiting import PATIENCE_SECONDS, until

METHOD = "/shop.Cart/Watch"


@dataclass(frozen=True)
class Addresses:
    """Where the surfaces are."""

    authority: str
    envoy: str
    forward_auth: str
    app: str
    service: str


@dataclass
class Seen:
    """The times at which a surface accepted and refused a session.

    Attributes:
        accepted_at: When the last accepted request began, or when the connection was last open.
        refused_at: When the first refused request began, or when the connection ended.
    """

    accepted_at: float = 0.0
    refused_at: float = 0.0


SURFACES = (
    "RPC",
    "near cache",
    "Envoy",
    "forward-auth",
    "gRPC stream",
    "WebSocket",
    "event stream",
)

Accepts = Callable[[], Awaitable[bool]]
Opened = Callable[[], None]


def live_app(client: AsyncSessionClient) -> FastAPI:
    """Return an app with a WebSocket and an event stream."""
    app = FastAPI()
    Sessions(client).install(app)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, _session: CurrentSession) -> None:
        await websocket.accept()
        await websocket.send_text("open")
        await websocket.receive_text()

    @app.get("/events")
    async def events(_session: CurrentSession) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield "data: open\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


@asynccontextmanager
async def live_service(client: AsyncSessionClient) -> AsyncIterator[str]:
    """Serve a gRPC stream until the end of the block, and yield the address."""

    async def watch(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"open"
        await asyncio.Event().wait()

    server = grpc.aio.server(interceptors=[AsyncSessionInterceptor(client)])
    method: Any = grpc.unary_stream_rpc_method_handler(watch)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Cart", {"Watch": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Surfaces:
    """Uses one session on every surface, until each refuses it."""

    def __init__(self, addresses: Addresses, new: NewSession, *, pause_seconds: float) -> None:
        self._addresses = addresses
        self._pause_seconds = pause_seconds
        self._token = new.token.reveal()
        self._cookie = {"cookie": f"auth_session={self._token}"}
        self.seen: Mapping[str, Seen] = {}
        self._open = 0

    async def use(self, caches: Sequence[AsyncSessionClient], end: Callable[[], None]) -> None:
        """Open every surface, end the session, and wait until every surface refuses it.

        Args:
            caches: The clients of the gateway and the apps. Each must know the session before it ends.
            end: Ends the session.
        """
        async with (
            AsyncSessionClient(self._addresses.authority) as plain,
            AsyncSessionClient(self._addresses.authority, near_cache=True) as cached,
            httpx.AsyncClient(headers=self._cookie, timeout=PATIENCE_SECONDS) as browser,
        ):

            async def rpc() -> bool:
                return bool(await plain.validate(self._token))

            async def near_cache() -> bool:
                return bool(await cached.validate(self._token))

            async def envoy() -> bool:
                return await _passes(browser, self._addresses.envoy)

            async def forward_auth() -> bool:
                return await _passes(browser, self._addresses.forward_auth)

            self.seen = {name: Seen() for name in SURFACES}
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as running:
                for work in (
                    self._ask("RPC", rpc),
                    self._ask("near cache", near_cache),
                    self._ask("Envoy", envoy),
                    self._ask("forward-auth", forward_auth),
                    self._hold("gRPC stream", self._grpc_stream),
                    self._hold("WebSocket", self._websocket),
                    self._hold("event stream", partial(self._event_stream, browser)),
                ):
                    running.create_task(work)
                await until(lambda: self._open == len(SURFACES))
                await until(lambda: all(self._is_cached(each) for each in (cached, *caches)))
                await asyncio.to_thread(end)
            for accepts in (rpc, near_cache, envoy, forward_auth):
                assert not await accepts(), "a surface accepts the session again"

    def _is_cached(self, client: AsyncSessionClient) -> bool:
        return client.validate_cached(self._token, passive=True) is not None

    async def _ask(self, name: str, accepts: Accepts) -> None:
        """Send requests until one is refused."""
        seen, is_first = self.seen[name], True
        while True:
            began = time.monotonic()
            if not await accepts():
                assert seen.accepted_at, f"{name} refused a live session"
                seen.refused_at = began
                return
            seen.accepted_at = began
            self._open += is_first
            is_first = False
            await asyncio.sleep(self._pause_seconds)

    async def _hold(self, name: str, keep_open: Callable[[Opened], Awaitable[None]]) -> None:
        """Keep a connection open until the server ends it."""

        def opened() -> None:
            self._open += 1

        await keep_open(opened)
        self.seen[name].accepted_at = self.seen[name].refused_at = time.monotonic()

    async def _grpc_stream(self, opened: Opened) -> None:
        async with grpc.aio.insecure_channel(self._addresses.service) as channel:
            method: Any = channel.unary_stream(METHOD)
            call = method(b"", metadata=(("x-session-token", self._token),))
            assert await call.read() == b"open"
            opened()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call.read()
            assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED

    async def _websocket(self, opened: Opened) -> None:
        address = f"ws://{self._addresses.app}/socket"
        async with connect(address, additional_headers=self._cookie, proxy=None) as socket:
            assert await socket.recv() == "open"
            opened()
            with pytest.raises(ConnectionClosed) as ended:
                await socket.recv()
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code in (1008, 1013)

    async def _event_stream(self, browser: httpx.AsyncClient, opened: Opened) -> None:
        async with browser.stream("GET", f"http://{self._addresses.app}/events") as response:
            events = response.aiter_lines()
            assert await anext(events) == "data: open"
            opened()
            async for _ in events:
                pass


async def _passes(browser: httpx.AsyncClient, address: str) -> bool:
    answer = await browser.post(f"http://{address}/")
    assert answer.status_code in (200, 401)
    return answer.status_code == 200
