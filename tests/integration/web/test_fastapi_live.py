"""WebSockets and event streams of FastAPI, which end with their session, on uvicorn and real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from session_authority import AsyncSessionClient, NewSession, testing
from session_authority.near_cache.lease import lease_clock
from session_authority.web.fastapi import CurrentSession, Sessions
from tests.integration.web.live_connections import (
    PATIENCE_SECONDS,
    End,
    connected,
    ending,
    expire,
    reauthenticate,
    revoke,
    revoke_others,
    serving,
    signed_in,
    sweep,
)
from tests.support.soak import soaked
from tests.support.waiting import until

# Of each of ten browsers at once.
CONNECTIONS = soaked(long=100, short=10)

ENDS = [
    pytest.param(revoke, 1008, id="revoked"),
    pytest.param(revoke_others, 1008, id="revoked others"),
    pytest.param(sweep, 1008, id="sweep"),
    pytest.param(reauthenticate, 1013, id="superseded"),
    pytest.param(expire, 1008, id="expired"),
    pytest.param(None, 1013, id="outage"),
]


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


class Clock:
    """The lease clock of a machine that can be suspended."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return lease_clock() + self._ahead

    def suspend(self) -> None:
        self._ahead += 3600


class Site:
    """An app on uvicorn, and its browser."""

    def __init__(self, sessions: Sessions, address: str, clock: Clock) -> None:
        self.sessions = sessions
        self.clock = clock
        self.address = address
        self.left: list[str] = []

    def headers(self, new: NewSession) -> dict[str, str]:
        return {"cookie": f"{self.sessions.cookie_name(local=True)}={new.token.reveal()}"}

    def socket(self, new: NewSession, path: str = "/socket") -> connect:
        return connect(
            f"ws://{self.address}{path}", additional_headers=self.headers(new), proxy=None
        )

    @property
    def subscriptions(self) -> int:
        near = self.sessions.client._near
        assert near is not None
        return len(near.keeper()._endings)


def app_of(sessions: Sessions, left: list[str]) -> FastAPI:
    app = FastAPI()
    sessions.install(app)

    @app.websocket("/socket")
    async def echo(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{session.user_id}: {text}")
        left.append("socket")

    @app.websocket("/late")
    async def late(websocket: WebSocket) -> None:
        await websocket.accept()
        await sessions.require(websocket)
        await websocket.send_text("welcome")
        await websocket.receive_text()

    add_streams(app, left)
    return app


def add_streams(app: FastAPI, left: list[str]) -> None:
    @app.get("/stream")
    async def stream(_session: CurrentSession) -> Response:
        async def events() -> AsyncIterator[str]:
            try:
                yield "data: first\n\n"
                await asyncio.Event().wait()
            finally:
                left.append("stream")

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/busy")
    async def busy(_session: CurrentSession) -> Response:
        async def events() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)

        return StreamingResponse(events())

    @app.get("/file")
    async def file(_session: CurrentSession) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            while "read" not in left:
                await asyncio.sleep(0.01)
            yield b"b"

        return StreamingResponse(parts(), headers={"content-length": "2"})


@pytest.fixture
async def site(authority: testing.Authority) -> AsyncIterator[Site]:
    async with AsyncSessionClient(authority.address, near_cache=True) as client:
        clock = Clock()
        near: Any = client._near
        near.now = clock
        await connected(client)
        sessions = Sessions(client)
        left: list[str] = []
        async with serving(app_of(sessions, left)) as address:
            site = Site(sessions, address, clock)
            site.left = left
            yield site


@asynccontextmanager
async def streaming(site: Site, new: NewSession, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Request a response. Yield its chunks after the first one."""
    async with (
        httpx.AsyncClient(headers=site.headers(new), timeout=PATIENCE_SECONDS) as browser,
        browser.stream("GET", f"http://{site.address}{path}") as response,
    ):
        chunks = response.aiter_bytes()
        await anext(chunks)
        yield chunks


async def closed(socket: ClientConnection) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await socket.wait_closed()
    assert socket.close_code is not None
    return socket.close_code


@pytest.mark.parametrize(("end", "code"), ENDS)
async def test_a_silent_socket_and_a_stream_close_when_their_session_ends(
    site: Site, authority: testing.Authority, end: End | None, code: int
) -> None:
    new = signed_in(authority, end or revoke)
    async with site.socket(new) as socket, streaming(site, new, "/stream") as chunks:
        await socket.send("hello")
        assert await socket.recv() == "ada: hello"
        with ending(authority, new, end):
            assert await closed(socket) == code
            async for _ in chunks:  # until the response is complete
                pass
    await until(lambda: sorted(site.left) == ["socket", "stream"])
    assert site.subscriptions == 0


async def test_a_stream_that_never_pauses_ends_with_its_session(
    site: Site, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")
    async with streaming(site, new, "/busy") as chunks:
        revoke(authority, new)
        async for _ in chunks:
            pass
    assert site.subscriptions == 0


async def test_a_revocation_closes_sockets_within_a_tenth_of_a_second(
    site: Site, authority: testing.Authority
) -> None:
    delays = []
    for _ in range(5):
        new = authority.sign_in("ada")
        async with site.socket(new) as socket:
            await socket.send("hello")
            await socket.recv()
            await asyncio.to_thread(revoke, authority, new)
            began = time.monotonic()
            await closed(socket)
            delays.append(time.monotonic() - began)
    # Once in five, this machine was not busy.
    assert min(delays) < 0.1, delays


async def test_a_socket_that_is_accepted_before_the_look_up_closes_too(
    site: Site, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")
    async with site.socket(new, "/late") as socket:
        assert await socket.recv() == "welcome"
        revoke(authority, new)
        assert await closed(socket) == 1008


async def test_after_a_suspension_a_message_passes_once_its_session_is_confirmed(
    site: Site, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")
    async with site.socket(new) as socket:
        await socket.send("hello")
        await socket.recv()
        site.clock.suspend()
        await socket.send("again")
        assert await socket.recv() == "ada: again"
        with authority.outage():
            site.clock.suspend()
            await socket.send("secret")
            with pytest.raises(ConnectionClosed):  # rather than the answer
                await socket.recv()
            assert socket.close_code == 1013


async def test_a_response_with_a_length_is_sent_to_its_end(
    site: Site, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")
    async with (
        httpx.AsyncClient(headers=site.headers(new), timeout=PATIENCE_SECONDS) as browser,
        browser.stream("GET", f"http://{site.address}/file") as response,
    ):
        assert site.subscriptions == 0
        revoke(authority, new)
        site.left.append("read")
        assert await response.aread() == b"ab"


@pytest.mark.soak
async def test_connections_leave_no_subscription_behind(
    site: Site, authority: testing.Authority
) -> None:
    new = authority.sign_in("ada")

    async def connect_and_leave() -> None:
        for _ in range(CONNECTIONS):
            async with site.socket(new) as socket:
                await socket.send("hello")
                await socket.recv()

    await asyncio.gather(*(connect_and_leave() for _ in range(10)))
    await until(lambda: site.subscriptions == 0)
    await until(lambda: len(site.left) == 10 * CONNECTIONS)
    near: Any = site.sessions.client._near
    assert not near.keeper()._endings._watched


async def test_beyond_the_limit_of_subscriptions_connections_get_503(
    site: Site, authority: testing.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_authority.near_cache.endings.SUBSCRIPTIONS_LIMIT", 0)
    new = authority.sign_in("ada")
    with pytest.raises(InvalidStatus) as caught:
        async with site.socket(new):
            pass
    assert caught.value.response.status_code == 503
    async with httpx.AsyncClient(headers=site.headers(new)) as browser:
        response = await browser.get(f"http://{site.address}/stream")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
