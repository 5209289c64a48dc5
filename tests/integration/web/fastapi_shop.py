"""A FastAPI app with sessions, and a browser for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse

from session_authority import AsyncSessionClient
from session_authority.web.fastapi import (
    CurrentSession,
    OptionalSession,
    Sessions,
)
from tests.support.authority import Authority

ORIGIN = "https://app.example"
COOKIE = "__Host-auth_session"


@dataclass
class Shop:
    """An app and its authority."""

    app: FastAPI
    sessions: Sessions
    authority: Authority

    @asynccontextmanager
    async def browser(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, client=("203.0.113.7", 4711))
        async with httpx.AsyncClient(
            transport=transport, base_url=ORIGIN, headers=headers
        ) as browser:
            yield browser

    def go_down(self) -> None:
        self.sessions.client = AsyncSessionClient("127.0.0.1:9", deadline_seconds=1)


def shop_app(sessions: Sessions, **install: Any) -> FastAPI:
    app = FastAPI()
    sessions.install(app, **install)

    @app.get("/")
    async def public() -> str:
        return "welcome"

    @app.post("/sign-in/{user_id}")
    async def sign_in(request: Request, user_id: str, response: str = "none") -> Any:
        await sessions.sign_in(request, user_id=user_id, methods=["pwd"])
        return {
            "none": None,
            "redirect": RedirectResponse("/", 303),
            "stream": StreamingResponse(iter(["a", "b"])),
            "shared": PlainTextResponse("x", headers={"cache-control": "public"}),
        }[response]

    @app.post("/sign-out")
    async def sign_out(request: Request) -> None:
        await sessions.sign_out(request)

    @app.post("/reauthenticate")
    async def reauthenticate(request: Request) -> None:
        await sessions.reauthenticate(request, methods=["pwd", "otp"])

    @app.post("/revoke-others")
    async def revoke_others(request: Request) -> datetime:
        return await sessions.revoke_others(request)

    @app.get("/me")
    async def me(session: CurrentSession) -> dict[str, Any]:
        return {"user": session.user_id, "methods": session.authentication_methods}

    @app.get("/who")
    async def who(session: OptionalSession, again: OptionalSession) -> str | None:
        assert session is again
        return session.user_id if session else None

    return app
