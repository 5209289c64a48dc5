"""The examples, with a route that says which process answered whom."""

import os

from examples.fastapi_app import app as asgi
from examples.fastapi_app import sessions
from fastapi import FastAPI
from starlette.requests import Request

asgi_app: FastAPI = asgi


@asgi_app.get("/who")
async def who(request: Request) -> list[object]:
    session = await sessions.require(request)
    return [os.getpid(), session.user_id]
