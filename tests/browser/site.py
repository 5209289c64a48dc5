"""A small FastAPI site with the sessions page. HTTP and the authority are real; tests control the clock and outages."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from playwright.sync_api import Page

from session_authority import AsyncSessionClient, NewSession
from session_authority._core import Operation
from session_authority.web.asgi import Receive, Scope, Send
from session_authority.web.fastapi import CurrentSession, Sessions
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site as WebSite
from session_authority_server.domain.policy import Policy
from tests.support.authority import Authority, running_authority

ROOT = "/account/sessions"
COOKIE = "auth_session"
_NOWHERE = "127.0.0.1:1"
_DEADLINE_SECONDS = 60

T = TypeVar("T")


class BreakableClient(AsyncSessionClient):
    """Client that can simulate an outage of the authority, or slow writes."""

    down = False
    delay_seconds = 0.0

    async def run_operation(self, operation: Operation[T]) -> T:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if not self.down:
            return await super().run_operation(operation)
        async with AsyncSessionClient(_NOWHERE, deadline_seconds=0.3) as unreachable:
            return await unreachable.run_operation(operation)


class Site:
    """The running site.

    Attributes:
        origin: Its scheme, host and port.
        served: The method, path and status of every answer.
    """

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.client = BreakableClient(authority.address, api_key=authority.key)
        self.origin = ""
        self.served: list[tuple[str, str, int]] = []
        self._loop = asyncio.get_running_loop()
        self.install(PageOptions(sign_in_url="/sign-in"))

    def install(self, options: PageOptions) -> None:
        """Install the page with other options."""
        app = FastAPI()
        sessions = Sessions(self.client, WebSite(clock=self.authority.clock.now))
        sessions.install(app, page=ROOT, options=options)

        @app.get("/me")
        async def me(session: CurrentSession) -> str:
            return session.user_id

        @app.post("/sign-in/{user_id}")
        async def sign_in(user_id: str, request: Request) -> None:
            await sessions.sign_in(request, user_id=user_id, methods=["pwd"])

        @app.get("/sign-in")
        async def sign_in_page() -> HTMLResponse:
            return HTMLResponse(
                "<!doctype html><html lang=en><title>Sign in</title><h1>Sign in</h1>"
            )

        self._app = app

    def run(self, work: Awaitable[T]) -> T:
        """Run a coroutine on the site's event loop, from the test's thread."""

        async def waited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(waited(), self._loop).result(_DEADLINE_SECONDS)

    def sign_in(self, user_id: str, user_agent: str = "", **details: Any) -> NewSession:
        """Sign in on another device, without a browser."""
        details = {"ip_address": "203.0.113.7", "authentication_methods": ["pwd"]} | details
        return self.run(self.authority.client.create(user_id, user_agent=user_agent, **details))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_note(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.served.append((scope["method"], scope["path"], message["status"]))
            await send(message)

        await self._app(scope, receive, send_and_note)


@contextmanager
def running_site(folder: Path, policy: Policy) -> Iterator[Site]:
    """Serve a site on a free port of this machine, from a separate thread."""
    started = threading.Event()
    found: list[Site] = []
    failures: list[BaseException] = []
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with running_authority(folder, policy) as authority:
            site = Site(authority)
            config = uvicorn.Config(
                site,
                port=0,
                log_level="error",
                lifespan="off",
                loop="asyncio",
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            stop.append(lambda: setattr(server, "should_exit", True))
            serving = asyncio.create_task(server.serve())
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            site.origin = f"http://127.0.0.1:{port}"
            found.append(site)
            started.set()
            await serving
            await site.client.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="site")
    thread.start()
    try:
        assert started.wait(_DEADLINE_SECONDS)
        if failures:
            raise failures[0]
        yield found[0]
    finally:
        for each in stop:
            each()
        thread.join(_DEADLINE_SECONDS)
    if failures:
        raise failures[0]


def ask_for(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Log out {name}").click()


def is_live(site: Site, session: NewSession) -> bool:
    return bool(site.run(site.authority.client.validate(session.token, passive=True)))
