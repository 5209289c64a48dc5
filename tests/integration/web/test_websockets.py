"""WebSockets whose session ends, and the documented example."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import RedirectResponse
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute

from session_authority import (
    AsyncSessionClient,
    NewSession,
    ReauthenticationRequired,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
    testing,
)
from session_authority.web.fastapi import CurrentSession, Sessions
from tests.integration.web.browser_socket import Socket
from tests.integration.web.serving_apps import ROOT

COOKIE = "__Host-auth_session"
TEXT = {"type": "websocket.receive", "text": "hello"}
GONE = {"type": "websocket.disconnect", "code": 1006}


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@pytest.fixture
async def sessions(authority: testing.Authority) -> AsyncIterator[Sessions]:
    async with authority.async_client() as client:
        yield Sessions(client)


@pytest.fixture
def ada(authority: testing.Authority) -> NewSession:
    return authority.sign_in("ada")


async def opened(app: FastAPI, new: NewSession, path: str = "/socket") -> Socket:
    socket = Socket(app, f"{COOKIE}={new.token.reveal()}", path)
    await socket.send(type="websocket.connect")
    assert (await socket.receive())["type"] == "websocket.accept"
    return socket


def app_with(sessions: Sessions, raised: list[Exception], **how: Any) -> FastAPI:
    """Return an app that catches the exceptions of `require` and continues."""
    app = FastAPI()
    sessions.install(app)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            try:
                found = await sessions.require(websocket, again=True, **how)
                await websocket.send_text(found.user_id)
            except SessionAuthorityError as error:
                raised.append(error)

    return app


async def test_a_socket_is_closed_when_its_session_ends_even_if_the_app_continues(
    sessions: Sessions, ada: NewSession
) -> None:
    raised: list[Exception] = []
    socket = await opened(app_with(sessions, raised), ada)
    await socket.send(**TEXT)
    assert (await socket.receive())["text"] == "ada"

    await sessions.client.sign_out(ada.token)
    await socket.send(**TEXT)

    closed = await socket.receive()
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    await socket.send(**GONE)
    await socket.end()
    assert [type(each) for each in raised] == [SessionNotLive]


async def test_in_an_outage_a_socket_is_closed_with_1013(
    sessions: Sessions, ada: NewSession, authority: testing.Authority
) -> None:
    raised: list[Exception] = []
    socket = await opened(app_with(sessions, raised), ada)

    with authority.outage():
        await socket.send(**TEXT)
        assert (await socket.receive())["code"] == 1013

    await socket.send(**GONE)
    await socket.end()
    assert [type(each) for each in raised] == [Unavailable]


async def test_a_socket_whose_user_must_confirm_their_identity_is_closed(
    sessions: Sessions, ada: NewSession, authority: testing.Authority
) -> None:
    raised: list[Exception] = []
    app = app_with(sessions, raised, maximum_age=timedelta(minutes=10))
    socket = await opened(app, ada)
    authority.advance(timedelta(minutes=11))

    await socket.send(**TEXT)

    assert (await socket.receive())["code"] == 1008
    await socket.send(**GONE)
    await socket.end()
    assert [type(each) for each in raised] == [ReauthenticationRequired]


@pytest.mark.parametrize(
    ("is_down", "status"), [(False, 401), (True, 503)], ids=["rejected", "outage"]
)
async def test_a_socket_without_a_session_is_refused_at_the_handshake(
    sessions: Sessions, authority: testing.Authority, is_down: bool, status: int
) -> None:
    socket = Socket(app_with(sessions, []), f"{COOKIE}=ses_{'0' * 70}")
    with authority.outage() if is_down else nullcontext():
        await socket.send(type="websocket.connect")
        refused = await socket.receive()

    assert (refused["type"], refused["status"]) == ("websocket.http.response.start", status)
    assert (b"set-cookie" in dict(refused["headers"])) is not is_down
    assert (await socket.receive())["type"] == "websocket.http.response.body"
    await socket.end()


@pytest.mark.parametrize(
    ("is_down", "code"), [(False, 1008), (True, 1013)], ids=["rejected", "outage"]
)
async def test_a_server_that_cannot_refuse_a_handshake_with_a_response_closes_the_socket(
    sessions: Sessions, authority: testing.Authority, is_down: bool, code: int
) -> None:
    socket = Socket(app_with(sessions, []), f"{COOKIE}=ses_{'0' * 70}", extensions={})
    with authority.outage() if is_down else nullcontext():
        await socket.send(type="websocket.connect")
        assert await socket.receive() == {"type": "websocket.close", "code": code}
    await socket.end()
    assert socket.is_silent


async def test_after_a_reauthentication_a_socket_is_closed_with_1013(
    sessions: Sessions, ada: NewSession
) -> None:
    socket = await opened(app_with(sessions, []), ada)
    await sessions.client.reauthenticate(ada.token)
    await socket.send(**TEXT)
    assert (await socket.receive())["code"] == 1013
    await socket.send(**GONE)
    await socket.end()


async def test_an_endpoint_class_that_does_not_catch_the_exception_closes_once(
    sessions: Sessions, ada: NewSession
) -> None:
    class Endpoint(WebSocketEndpoint):
        encoding = "text"

        async def on_receive(self, websocket: WebSocket, _data: Any) -> None:
            await sessions.require(websocket, again=True)

    app = FastAPI()
    sessions.install(app)
    app.router.routes.append(WebSocketRoute("/socket", Endpoint))
    socket = await opened(app, ada)
    await sessions.client.sign_out(ada.token)

    await socket.send(**TEXT)

    assert (await socket.receive())["code"] == 1008
    await socket.end()
    assert socket.is_silent


async def test_a_redirect_by_the_app_is_dropped_once_the_socket_is_closed(
    sessions: Sessions, ada: NewSession
) -> None:
    app = FastAPI()
    sessions.install(app)

    @app.exception_handler(SessionNotLive)
    async def to_sign_in(_request: Request, _error: Exception) -> RedirectResponse:
        return RedirectResponse("/sign-in", 303)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        await sessions.require(websocket, again=True)

    opened_socket = await opened(app, ada)
    await sessions.client.sign_out(ada.token)
    await opened_socket.send(**TEXT)

    assert (await opened_socket.receive())["code"] == 1008
    await opened_socket.end()
    assert opened_socket.is_silent


@pytest.mark.parametrize("closes", [True, False])
async def test_messages_that_the_app_sends_after_the_close_are_dropped(
    sessions: Sessions, ada: NewSession, closes: bool
) -> None:
    app = FastAPI()
    sessions.install(app)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        with suppress(SessionNotLive):
            await sessions.require(websocket, again=True)
        if closes:
            await websocket.close(4001)
            return
        with pytest.raises(WebSocketDisconnect):
            await websocket.send_text("secret")

    opened_socket = await opened(app, ada)
    await sessions.client.sign_out(ada.token)
    await opened_socket.send(**TEXT)

    assert (await opened_socket.receive())["code"] == 1008
    await opened_socket.end()
    assert opened_socket.is_silent


async def test_concurrent_tasks_each_get_their_own_answer(
    sessions: Sessions, ada: NewSession
) -> None:
    """The answer to a call from before a sign-out must not answer a later question."""
    app = FastAPI()
    sessions.install(app)
    found: list[Any] = []
    real, reached, answered = sessions.client.validate, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Any:
        answer = await real(*args, **more)
        reached.set()
        await answered.wait()
        return answer

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        first = asyncio.create_task(sessions.session(websocket))
        await reached.wait()
        await sessions.client.sign_out(ada.token)
        second = asyncio.create_task(sessions.session(websocket, again=True))
        await asyncio.sleep(0)
        answered.set()
        found.extend((bool(await first), bool(await second)))

    sessions.client.validate = slow  # type: ignore[method-assign]
    await (await opened(app, ada)).end()

    assert found == [True, False]


async def test_a_passive_check_does_not_count_as_activity(
    authority: testing.Authority, sessions: Sessions
) -> None:
    new = authority.sign_in("ada", idle_timeout=timedelta(minutes=30))
    raised: list[Exception] = []
    socket = await opened(app_with(sessions, raised, passive=True), new)
    for _ in range(3):
        authority.advance(timedelta(minutes=11))
        await socket.send(**TEXT)
        last = await socket.receive()

    assert last["code"] == 1008
    await socket.send(**GONE)
    await socket.end()


async def test_the_documented_socket_closes_when_the_session_ends_even_without_messages(
    authority: testing.Authority, ada: NewSession
) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$",
        (ROOT / "docs/use/fastapi.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    (example,) = [block for block in blocks if '"/chat"' in block]
    module: dict[str, Any] = {}
    exec(compile(example, "docs/use/fastapi.md", "exec"), module)
    async with AsyncSessionClient(authority.address, near_cache=True) as client:
        module["sessions"].client = client
        socket = await opened(module["app"], ada, "/chat")
        await socket.send(**TEXT)
        assert (await socket.receive())["text"] == "ada: hello"

        await client.sign_out(ada.token)

        closed = await socket.receive()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        await socket.send(**GONE)
        await socket.end()
