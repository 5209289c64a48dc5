"""A FastAPI shop with a password check, the sessions page and a WebSocket."""

import asyncio
import secrets
from html import escape
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, RedirectResponse
from pwdlib import PasswordHash

from session_authority.web.fastapi import CurrentSession, RecentAuthentication, Sessions
from session_authority.web.sessions_page import PageOptions

HEAD = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<title>Shop</title><style>body { font: 1rem/1.5 system-ui; max-width: 20rem; margin: 2rem auto }
input { display: block; margin-bottom: 1rem }</style>"""
FORM = """<h1>Log in</h1><form method="post">
<label>Name <input name="name" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password"></label>
<button>Log in</button></form>"""
HOME = """<p><a href="/account/sessions">Your sessions</a></p>
<form method="post"><button formaction="/sign-out">Log out</button>
<button formaction="/close-account">Close my account</button></form>
<p><label>Say something <input onchange="chat.send(value)"></label><output id="reply"></output></p>
<script>const chat = new WebSocket("/chat")
chat.onmessage = (message) => { reply.value = message.data }
chat.onclose = (end) => { if (end.code === 1008) location.reload() }</script>"""

# Your database of users. It keeps a hash of each password.
passwords = PasswordHash.recommended()
USERS = {"ada": passwords.hash("difference engine"), "grace": passwords.hash("nanosecond")}
DUMMY = passwords.hash(secrets.token_hex())  # Unknown names take as long to check.


async def refuse_other_sites(request: HTTPConnection) -> None:
    """Accept forms and WebSockets only from pages of this site (CSRF protection)."""
    origin = urlsplit(request.headers.get("origin", "")).netloc
    if request.scope.get("method") != "GET" and origin != request.headers.get("host"):
        raise HTTPException(403, "This request comes from another site.")


app = FastAPI(dependencies=[Depends(refuse_other_sites)])
sessions = Sessions.from_env()
PAGE = PageOptions(home_url="/", sign_in_url="/sign-in", reauthenticate_url="/sign-in")
sessions.install(app, page="/account/sessions", options=PAGE)


@app.api_route("/sign-in", methods=["GET", "POST"])
async def sign_in(request: Request) -> Response:
    """Check a password. A user who is already signed in confirms their identity."""
    form = await request.form()
    if not form:
        return HTMLResponse(HEAD + FORM)
    name, password = str(form.get("name", "")), str(form.get("password", ""))
    if not await asyncio.to_thread(passwords.verify, password, USERS.get(name, DUMMY)):
        return HTMLResponse(f"{HEAD}<p>Wrong name or password.</p>{FORM}", 403)
    session = await sessions.session(request)
    if session and session.user_id == name:
        await sessions.reauthenticate(request, authentication_methods=["pwd"])
    else:
        await sessions.sign_in(request, user_id=name, authentication_methods=["pwd"])
    return RedirectResponse(sessions.next_page(request), 303)


@app.get("/")
async def home(session: CurrentSession) -> Response:
    return HTMLResponse(f"{HEAD}<h1>Hello, {escape(session.user_id)}</h1>{HOME}")


@app.post("/close-account", dependencies=[RecentAuthentication(minutes=10)])
async def close_account(request: Request, session: CurrentSession) -> Response:
    USERS.pop(session.user_id, None)
    await sessions.revoke_others(request)
    return await sign_out(request)


@app.post("/sign-out")
async def sign_out(request: Request) -> Response:
    await sessions.sign_out(request)
    return RedirectResponse("/sign-in", 303)


@app.websocket("/chat")
async def chat(websocket: WebSocket, session: CurrentSession) -> None:
    """Answer messages until the session ends, which closes the socket."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await sessions.require(websocket, again=True)
        await websocket.send_text(f"{session.user_id} says: {text}")
