"""A FastAPI app whose users see their own sessions, and end them.

    session-authority serve                    # prints: export SESSION_AUTHORITY_API_KEY=...
    uvicorn examples.fastapi_app:app           # with that line, in another terminal

Then open http://localhost:8000. It signs in whoever asks; your app checks a password there.
"""

from html import escape
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from session_authority import SessionNotLive
from session_authority.web.fastapi import (
    CurrentSession,
    OptionalSession,
    RecentAuthentication,
    Sessions,
)
from session_authority.web.sessions_page import PageOptions

app = FastAPI(title="Shop")
sessions = Sessions.from_env()
sessions.install(
    app,
    page="/account/sessions",
    options=PageOptions(app_name="Shop", home_url="/", sign_in_url="/", signed_out_path="/"),
)


@app.get("/", response_class=HTMLResponse)
async def home(session: OptionalSession) -> str:
    """Greet whoever it is."""
    if session is None:
        return """<!doctype html><title>Shop</title><h1>Shop</h1>
            <form method="post" action="/sign-in">
            <label>Your name <input name="name" value="ada" required></label> <button>Sign in</button></form>"""
    return f"""<!doctype html><title>Shop</title><h1>Hello, {escape(session.user_id)}</h1>
        <p>You are signed in on {escape(session.device.display_name)}.
        <p><a href="/account/sessions">Your sessions</a>
        <form method="post" action="/sign-out"><button>Sign out</button></form>"""


@app.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Sign somebody in. An app checks a password or a passkey here first."""
    name = parse_qs((await request.body()).decode()).get("name", [""])[0]
    await sessions.sign_in(request, user_id=name, authentication_methods=["pwd"])
    return RedirectResponse("/", 303)


@app.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Sign out on this device."""
    await sessions.sign_out(request)
    return RedirectResponse("/", 303)


@app.get("/me")
async def me(session: CurrentSession) -> dict[str, str]:
    """Say whose session it is; answered with 401 where there is none."""
    return {"user_id": session.user_id, "device": session.device.display_name}


@app.delete("/account", dependencies=[RecentAuthentication(minutes=10)])
async def delete_account(request: Request) -> None:
    """Do what only a user may who signed in within the last ten minutes."""
    await sessions.revoke_others(request)


@app.exception_handler(SessionNotLive)
async def to_sign_in(request: Request, _error: Exception) -> Response:
    """Send people to the sign-in, and tell programs."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/", 303)
    return Response(status_code=401)
