"""The web app of the demonstration: sign in as anyone, with two pretend devices beside you."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from html import escape
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from session_authority import AsyncSessionClient, Session, SessionToken
from session_authority.web.fastapi import OptionalSession, Sessions
from session_authority.web.sessions_page import PageOptions

HOST = "127.0.0.1"
USERS_LIMIT = 100
NAME_LIMIT_CHARACTERS = 64
PAGE_PATH = "/account/sessions"
PRETEND_DEVICES = (
    (
        "198.51.100.23",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 "
        "(KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    ),
    (
        "2001:db8::5",
        "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    ),
)

_FRAME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Demo of Session Authority</title>
<style>
:root {{ color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif }}
body {{ max-width: 34rem; margin: 3rem auto; padding: 0 1rem }}
button, input {{ font: inherit; padding: .4rem .8rem }}
a {{ font-weight: 600 }}
</style>
{content}
</html>"""
_SIGNED_OUT = """<h1>Demo of Session Authority</h1>
<p>Sign in as anyone. No password is asked for here; an app checks it first.</p>
<form method="post" action="/sign-in">
<label>Name <input name="name" value="mary" required maxlength="64" autocomplete="username"></label>
<button>Sign in</button></form>"""
_SIGNED_IN = """<h1>Hello, {name}</h1>
<p>You are signed in on {device}. Two pretend devices are beside you:</p>
<ul>{devices}</ul>
<p><a href="{page}">Your sessions</a>: log one of them out, and come back to see it refused.</p>
<p>Or sign in with another browser, and log that one out.</p>
<form method="post" action="/sign-out"><button>Sign out</button></form>"""


class DemoSite:
    """The app, and what it pretends."""

    def __init__(self, client: AsyncSessionClient) -> None:
        # That the cookie is not Secure here is as it should be.
        logging.getLogger("session_authority.web").setLevel(logging.ERROR)
        self._client = client
        self._sessions = Sessions(client)
        self._pretended: dict[str, list[tuple[str, SessionToken]]] = {}
        self.app = self._made()

    def _made(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        # Whoever reaches it under another name is not in front of this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", HOST])
        self._sessions.install(
            app,
            page=PAGE_PATH,
            options=PageOptions(
                app_name="Demo", home_url="/", sign_in_url="/", signed_out_path="/"
            ),
        )

        @app.get("/", response_class=HTMLResponse)
        async def home(session: OptionalSession) -> str:
            content = _SIGNED_OUT if session is None else await self._welcome(session)
            return _FRAME.format(content=content)

        @app.post("/sign-in")
        async def sign_in(request: Request) -> Response:
            form = parse_qs((await request.body()).decode("utf-8", "replace"))
            name = "".join(filter(str.isprintable, form.get("name", [""])[0]))
            name = name.strip()[:NAME_LIMIT_CHARACTERS] or "mary"
            await self._sessions.sign_in(request, user_id=name, methods=["pwd"])
            await self._pretend(name)
            return RedirectResponse("/", 303)

        @app.post("/sign-out")
        async def sign_out(request: Request) -> Response:
            await self._sessions.sign_out(request)
            return RedirectResponse("/", 303)

        return app

    async def _pretend(self, user_id: str) -> None:
        """Sign the user in on devices that aren't there, unless they still are signed in on them."""
        pretended = self._pretended.pop(user_id, [])
        live = [device for device in pretended if await self._is_live(device[1])]
        if len(live) < len(PRETEND_DEVICES):
            for _, token in live:
                await self._client.sign_out(token)
            live = []
            for address, agent in PRETEND_DEVICES:
                new = await self._client.create(
                    user_id,
                    ip_address=address,
                    user_agent=agent,
                    authentication_methods=["pwd"],
                )
                live.append((new.session.device.display_name, new.token))
        self._pretended[user_id] = live
        if len(self._pretended) > USERS_LIMIT:
            del self._pretended[next(iter(self._pretended))]

    async def _is_live(self, token: SessionToken) -> bool:
        return bool(await self._client.validate(token, passive=True))

    async def _welcome(self, session: Session) -> str:
        devices = ""
        for name, token in self._pretended.get(session.user_id, []):
            state = "signed in" if await self._is_live(token) else "logged out, and refused"
            devices += f"<li>{escape(name)}: <strong>{state}</strong></li>"
        return _SIGNED_IN.format(
            name=escape(session.user_id),
            device=escape(session.device.display_name),
            devices=devices,
            page=PAGE_PATH,
        )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # They are the command's.


@contextlib.asynccontextmanager
async def serving_demo_site(client: AsyncSessionClient, port: int) -> AsyncIterator[str]:
    """Serve the app on this machine alone for as long as the context lasts, and give its address.

    Args:
        client: Asks the authority.
        port: The port; another one if it is taken.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError:
        listening = socket.create_server((HOST, 0))
    with listening:
        config = uvicorn.Config(
            DemoSite(client).app, log_config=None, access_log=False, proxy_headers=False
        )
        server = _Server(config)
        async with _running(server, listening):
            yield f"http://{HOST}:{listening.getsockname()[1]}"


@contextlib.asynccontextmanager
async def _running(server: _Server, listening: socket.socket) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve([listening]))
        try:
            yield
        finally:
            server.should_exit = True
