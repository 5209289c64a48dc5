"""Sign-ins whose caller is cancelled: by its own scope, by middleware, or because the browser disconnected."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request

from session_authority import AsyncSessionClient, Session, testing
from session_authority.web.fastapi import Sessions
from tests.support.waiting import until

COOKIE = "__Host-auth_session"


class HeldClient(AsyncSessionClient):
    """Holds back the calls of one method, before they are sent or after they are answered.

    Attributes:
        held: Name of the method, such as "CreateSession". Empty: no call is held.
        before: Whether to hold them before they are sent.
        reached: Set once a call is held.
        gate: Set by the test to release the held calls.
    """

    held = ""
    before = False

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    async def _send(self, call: Any) -> bytes:
        is_held = bool(self.held) and call.method.endswith("/" + self.held)
        if is_held and self.before:
            await self._hold()
        answer = await super()._send(call)
        if is_held and not self.before:
            await self._hold()
        return answer

    async def _hold(self) -> None:
        self.reached.set()
        await self.gate.wait()


@pytest.fixture(scope="module")
def authority() -> Iterator[testing.Authority]:
    with testing.authority() as running:
        yield running


@pytest.fixture
async def client(authority: testing.Authority) -> AsyncIterator[HeldClient]:
    async with HeldClient(authority.address) as client:
        yield client


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:60]


async def live_sessions(client: HeldClient, user: str) -> list[Session]:
    """Return the user's live sessions, except the session that this function creates to list them."""
    mine = await client.create(user)
    sessions = await client.list(mine.token)
    await client.sign_out(mine.token)
    return [each for each in sessions if not each.current]


async def assert_no_session_is_left(client: HeldClient, sessions: Sessions, user: str) -> None:
    await until(lambda: not sessions._sign_ins._tasks)
    assert await live_sessions(client, user) == []


def app_that(sessions: Sessions, run: Callable[[Request], Awaitable[Any]]) -> FastAPI:
    app = FastAPI()
    sessions.install(app)
    app.post("/run")(run)

    @app.post("/sign-in/{user}")
    async def sign_in(request: Request, user: str) -> None:
        await sessions.sign_in(request, user_id=user)

    return app


def browser(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "after the commit"])
@pytest.mark.parametrize("by", ["anyio", "asyncio"])
async def test_a_sign_in_that_its_own_scope_cancels_leaves_no_session(
    client: HeldClient, user: str, before: bool, by: str
) -> None:
    sessions = Sessions(client)

    async def run(request: Request) -> str:
        async def sign_in() -> None:
            await sessions.sign_in(request, user_id=user)

        if by == "anyio":
            async with anyio.create_task_group() as group:
                group.start_soon(sign_in)
                await client.reached.wait()
                group.cancel_scope.cancel()
        else:
            signing_in = asyncio.create_task(sign_in())
            await client.reached.wait()
            signing_in.cancel()
            with suppress(asyncio.CancelledError):
                await signing_in
        client.gate.set()
        found = await sessions.session(request)
        return found.user_id if found else "anonymous"

    client.held, client.before = "CreateSession", before
    async with browser(app_that(sessions, run)) as it:
        answer = await it.post("/run")
    client.held = ""

    assert (answer.status_code, answer.json()) == (200, "anonymous")
    assert "set-cookie" not in answer.headers
    await assert_no_session_is_left(client, sessions, user)


@pytest.mark.parametrize("what", ["sign_in", "reauthenticate"])
async def test_after_a_cancelled_call_another_succeeds(
    client: HeldClient, user: str, what: str
) -> None:
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        client.held = "CreateSession" if what == "sign_in" else "ReauthenticateSession"
        with anyio.move_on_after(0.05):
            if what == "sign_in":
                await sessions.sign_in(request, user_id=user)
            else:
                await sessions.reauthenticate(request)
        client.held = ""
        client.gate.set()
        await sessions.sign_in(request, user_id=user)

    async with browser(app_that(sessions, run)) as it:
        await it.post(f"/sign-in/{user}")
        await it.post("/run")
        await until(lambda: not sessions._sign_ins._tasks)
        (left,) = await client.list(it.cookies[COOKIE])
        assert left.current


async def test_a_sign_in_cancelled_while_it_replaces_a_session_leaves_no_session(
    client: HeldClient, user: str
) -> None:
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        client.held, client.before = "SignOut", True
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(
                lambda: asyncio.ensure_future(client.reached.wait()).add_done_callback(
                    lambda _: scope.cancel()
                )
            )
            await sessions.sign_in(request, user_id=user)
        client.held = ""
        client.gate.set()

    async with browser(app_that(sessions, run)) as it:
        await it.post(f"/sign-in/{user}")
        answer = await it.post("/run")

    assert "Max-Age=0" in answer.headers["set-cookie"]
    await assert_no_session_is_left(client, sessions, user)


@pytest.mark.parametrize("held", ["CreateSession", ""])
async def test_a_request_that_is_cancelled_leaves_no_session(
    client: HeldClient, user: str, held: str
) -> None:
    """A time limit around the app cancels it, or the server does when the browser disconnects."""
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        await sessions.sign_in(request, user_id=user)
        client.reached.set()
        await asyncio.Event().wait()

    client.held = held
    app = app_that(sessions, run)

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await client.reached.wait()
                group.cancel_scope.cancel()

            group.start_soon(stop)
            await app(scope, receive, send)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(limited), base_url="https://app.example"
    ) as it:
        with suppress(AssertionError):  # No response is sent.
            await it.post("/run")
    client.held = ""
    client.gate.set()

    await assert_no_session_is_left(client, sessions, user)


async def test_a_response_that_cannot_be_sent_leaves_no_session(
    client: HeldClient, user: str
) -> None:
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        await sessions.sign_in(request, user_id=user)

    app = app_that(sessions, run)

    async def broken(scope: Any, receive: Any, _send: Any) -> None:
        async def send(_message: Any) -> None:
            raise OSError("the browser has gone")

        await app(scope, receive, send)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(broken), base_url="https://app.example"
    ) as it:
        with pytest.raises(OSError, match="gone"):
            await it.post("/run")

    await assert_no_session_is_left(client, sessions, user)


async def test_a_session_created_after_the_response_began_is_ended(
    client: HeldClient, user: str
) -> None:
    sessions = Sessions(client)
    tasks: list[asyncio.Task[Session]] = []

    async def run(request: Request) -> None:
        tasks.append(asyncio.create_task(sessions.sign_in(request, user_id=user)))
        await client.reached.wait()

    client.held = "CreateSession"
    async with browser(app_that(sessions, run)) as it:
        answer = await it.post("/run")
    client.held = ""
    client.gate.set()

    with pytest.raises(RuntimeError, match="the response has begun"):
        await tasks[0]
    assert "set-cookie" not in answer.headers
    await assert_no_session_is_left(client, sessions, user)


async def test_a_cancelled_sign_in_that_fails_logs_nothing(
    client: HeldClient, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        with anyio.move_on_after(0.05):
            await sessions.sign_in(request, user_id="x" * 300)
        client.gate.set()

    client.held, client.before = "CreateSession", True
    async with browser(app_that(sessions, run)) as it:
        assert (await it.post("/run")).status_code == 200
    await until(lambda: not sessions._sign_ins._tasks)

    assert "never retrieved" not in caplog.text


async def test_a_client_closed_during_a_sign_in_logs_which_session_remains(
    authority: testing.Authority, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = HeldClient(authority.address)
    sessions = Sessions(client)

    async def run(request: Request) -> None:
        with anyio.move_on_after(0.05):
            await sessions.sign_in(request, user_id=user)
        client._closed = True
        client.gate.set()
        await until(lambda: not sessions._sign_ins._tasks)

    client.held = "CreateSession"
    async with browser(app_that(sessions, run)) as it:
        assert (await it.post("/run")).status_code == 200
    await client.close()

    assert "a session that no browser uses was not ended" in caplog.text
