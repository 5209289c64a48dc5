"""The web app of the demo: log in with any name, next to two simulated devices."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from html import escape
from string import Template
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

_FRAME = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title · Session Authority demo</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
%3Crect width='32' height='32' rx='8' fill='%230a58ca'/%3E%3Cpath d='m9 16.5 5 5 9-11' fill='none'\
 stroke='%23fff' stroke-width='3'/%3E%3C/svg%3E">
<style>
:root { color-scheme: light dark; --back: #f5f6f8; --card: #fff; --text: #1c2127; --muted: #59626d;
  --line: #dde1e6; --accent: #0a58ca; --on-accent: #fff; --good: #146c43; --good-back: #e3f4ea; --bad: #b3261e;
  --bad-back: #fdeceb }
@media (prefers-color-scheme: dark) { :root { --back: #0f1317; --card: #191f25; --text: #e8ebee; --muted: #a6b0bb;
  --line: #303942; --accent: #9cc2ff; --on-accent: #0b1a30; --good: #8bd8ae; --good-back: #15301f; --bad: #ffaaa2;
  --bad-back: #3a1a18 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
header, main { max-width: 46rem; margin: auto; padding: 0 clamp(1rem, 4vw, 1.5rem) }
header { display: flex; align-items: center; justify-content: space-between; gap: 1rem; min-height: 4.5rem }
header b { display: flex; align-items: center; line-height: 1.25 }
header b::before { content: "✓"; flex: none; margin-right: .625rem; width: 1.75rem; line-height: 1.75rem;
  border-radius: .5rem; background: var(--accent); color: var(--on-accent); text-align: center }
main { padding-block: clamp(1.5rem, 6vw, 3.5rem) }
h1 { margin: 0; font-size: clamp(1.6rem, 1.3rem + 1.4vw, 2.1rem); line-height: 1.2; letter-spacing: -.02em }
h2 { margin: 0; font-size: 1.0625rem }
p { margin: .625rem 0 0; color: var(--muted) }
.card { margin-top: 1.75rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .875rem }
.narrow { max-width: 26rem; margin: 0 auto; padding: clamp(1.5rem, 6vw, 2.5rem) }
ul { margin: .75rem 0 0; padding: 0; list-style: none }
li { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .25rem 1rem; padding: .75rem 0 }
li + li { border-top: 1px solid var(--line) }
strong { padding: .0625rem .625rem; border-radius: 1rem; background: var(--bad-back); color: var(--bad);
  font-size: .8125rem; font-weight: 500; line-height: 1.7 }
.live strong { background: var(--good-back); color: var(--good) }
label { display: block; margin-top: 1.5rem; font-weight: 500 }
input, button, .button { font: inherit; padding: .5rem 1rem; min-height: 2.625rem; border: 1px solid var(--line);
  border-radius: .625rem }
input { width: 100%; margin-top: .375rem; padding-inline: .75rem; background: var(--back); color: inherit }
button, .button { display: inline-block; background: none; color: inherit; font-weight: 500; text-decoration: none;
  white-space: nowrap; cursor: pointer }
.card + p { margin-top: 1.5rem }
.main { border-color: transparent; background: var(--accent); color: var(--on-accent) }
.narrow button { width: 100%; margin-top: 1rem }
.card .button { margin-top: .75rem }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
</style>
<header><b>Session Authority demo</b>$corner</header>
<main>
$content
</main>
</html>""")
_SIGNED_OUT = Template("""<form class="card narrow" method="post" action="/sign-in">
<h1>Log in</h1>
<p>Choose any name. This demo doesn't ask for a password, but a real app must.</p>
<label>Name <input name="name" value="mary" required maxlength="64" autocomplete="username"></label>
<input type="hidden" name="next" value="$next">
<button class="main">Log in</button>
</form>""")
_CORNER = '<form method="post" action="/sign-out"><button>Log out</button></form>'
_SIGNED_IN = Template("""<h1>Hello, $name</h1>
<p>You're logged in with $device.</p>
<div class="card">
<h2>Two simulated devices</h2>
<ul>$devices</ul>
<a class="button main" href="$page">Your sessions</a>
</div>
<p>Log out one of them under “Your sessions”, then come back here. Its session is no longer accepted.</p>
<p>You can also log in as $name in another browser, and log out that browser from here.</p>""")


class DemoSite:
    """The app and its simulated devices."""

    def __init__(self, client: AsyncSessionClient) -> None:
        # Silence the client's warning that the cookie is not Secure. It cannot be, because the demo uses plain HTTP.
        logging.getLogger("session_authority.web").setLevel(logging.ERROR)
        self._client = client
        self._sessions = Sessions(client)
        self._pretended: dict[str, list[tuple[str, SessionToken]]] = {}
        self.app = self._made()

    def _made(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        # A request with another host name does not come from this machine: it may be DNS rebinding.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", HOST])
        self._sessions.install(
            app,
            page=PAGE_PATH,
            options=PageOptions(
                app_name="Session Authority demo",
                home_url="/",
                sign_in_url="/",
                signed_out_path="/",
            ),
        )

        @app.get("/")
        async def home(request: Request, session: OptionalSession) -> Response:
            following = self._sessions.next_page(request)
            if session is None:
                content = _SIGNED_OUT.substitute(next=escape(following))
                return _page("Log in", content)
            if following != "/":
                return RedirectResponse(following, 303)
            return _page("Home", await self._welcome(session), _CORNER)

        @app.post("/sign-in")
        async def sign_in(request: Request) -> Response:
            form = parse_qs((await request.body()).decode("utf-8", "replace"))
            name = "".join(filter(str.isprintable, form.get("name", [""])[0]))
            name = name.strip()[:NAME_LIMIT_CHARACTERS] or "mary"
            await self._sessions.sign_in(request, user_id=name, authentication_methods=["pwd"])
            await self._pretend(name)
            following = self._sessions.next_page(request, form.get("next", [""])[0])
            return RedirectResponse(following, 303)

        @app.post("/sign-out")
        async def sign_out(request: Request) -> Response:
            await self._sessions.sign_out(request)
            return RedirectResponse("/", 303)

        return app

    async def _pretend(self, user_id: str) -> None:
        """Sign the user in on the simulated devices, unless the user is signed in on all of them."""
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
            is_live = await self._is_live(token)
            kind = ' class="live"' if is_live else ""
            state = "logged in" if is_live else "logged out"
            devices += f"<li{kind}>{escape(name)} <strong>{state}</strong></li>"
        return _SIGNED_IN.substitute(
            name=escape(session.user_id),
            device=escape(session.device.display_name),
            devices=devices,
            page=PAGE_PATH,
        )


def _page(title: str, content: str, corner: str = "") -> Response:
    return HTMLResponse(_FRAME.substitute(title=title, content=content, corner=corner))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # The command handles signals, so uvicorn must not.


@contextlib.asynccontextmanager
async def serving_demo_site(client: AsyncSessionClient, port: int) -> AsyncIterator[str]:
    """Serve the app on this machine only while the context lasts, and yield its URL.

    Args:
        client: The client of the authority.
        port: The preferred port. If it is taken, a free port is used.
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
