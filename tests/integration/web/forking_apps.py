"""The FastAPI shop, with a route that returns the user and the answering process."""

import os

from fastapi import FastAPI
from fastapi_app import app, sessions
from starlette.requests import Request

asgi_app: FastAPI = app


@asgi_app.get("/who")
async def who(request: Request) -> list[object]:
    session = await sessions.require(request)
    return [os.getpid(), session.user_id]
