"""A small site with the page: real HTTP, a real authority, and a clock, an outage and policies to play with."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import uvicorn

from session_authority import AsyncSessionClient, NewSession
from session_authority.web.exchange import PageRequest, PageResponse
from session_authority.web.sessions_page import PageOptions, SessionsPage
from session_authority_server.domain.policy import Policy
from tests.acceptance.authority import Authority, running_authority
from tests.browser.driving import drive

ROOT = "/account/sessions"
NOWHERE = "127.0.0.1:1"
_DEADLINE_SECONDS = 20

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class Site:
    """The site as tests see it; `options` may change between requests."""

    authority: Authority
    loop: asyncio.AbstractEventLoop
    options: PageOptions = field(default_factory=lambda: PageOptions(sign_in_url="/sign-in"))
    down: bool = False
    delay_seconds: float = 0
    origin: str = ""
    served: list[tuple[str, str, int]] = field(default_factory=list)

    def run(self, work: Awaitable[T]) -> T:
        """Do something with the authority, from the test's thread."""

        async def waited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result(_DEADLINE_SECONDS)

    def sign_in(self, user_id: str, user_agent: str = "", **details: Any) -> NewSession:
        """Sign in on a device that is no browser of the test's."""
        details = {"ip_address": "203.0.113.7", "authentication_methods": ["pwd"]} | details
        return self.run(self.authority.client.create(user_id, user_agent=user_agent, **details))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        response = await self._answer(scope, receive)
        self.served.append((scope["method"], scope["path"], response.status))
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        if response.signed_out:
            headers.append((b"set-cookie", b"session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> PageResponse:
        path = scope["path"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        cookies = dict(
            part.strip().split("=", 1)
            for part in headers.get("cookie", "").split(";")
            if "=" in part
        )
        token = cookies.get("session")
        query = dict(parse_qsl(scope["query_string"].decode()))
        if path == ROOT or path.startswith(ROOT + "/"):
            request = PageRequest(
                method=scope["method"],
                root=ROOT,
                below=path.removeprefix(ROOT),
                origin=self.origin,
                headers=headers,
                query=query,
                form=dict(parse_qsl((await _body(receive)).decode(), keep_blank_values=True)),
                token=token,
            )
            return await self._page(request)
        if path == "/me":
            live = await self.authority.client.validate(token)
            return _text(200, live.user_id) if live else _text(401, "signed out")
        if path == "/sign-in":
            return _text(200, "Here one would sign in")
        return _text(404, "Not found")

    async def _page(self, request: PageRequest) -> PageResponse:
        page = SessionsPage(self.options, now=self.authority.clock.now)
        is_post = request.method == "POST"
        if is_post and self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if not self.down:
            return await drive(self.authority.client, page.handle(request))
        async with AsyncSessionClient(NOWHERE, deadline_seconds=0.3) as client:
            return await drive(client, page.handle(request))


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _text(status: int, text: str) -> PageResponse:
    headers = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))
    return PageResponse(status=status, headers=headers, body=text.encode())


@contextmanager
def running_site(folder: Path, policy: Policy) -> Iterator[Site]:
    """Serve a site on a free port of this machine, from a thread of its own."""
    started = threading.Event()
    found: list[Site] = []
    failures: list[BaseException] = []
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with running_authority(folder, policy) as authority:
            site = Site(authority, asyncio.get_running_loop())
            config = uvicorn.Config(site, port=0, log_level="error", lifespan="off", loop="asyncio")
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
