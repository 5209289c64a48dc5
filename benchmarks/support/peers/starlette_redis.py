"""A minimal hand-written session check with Redis: one cookie and one GET."""

import json
import os
import secrets

import redis.asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_store = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])


async def login(request: Request) -> Response:
    token = secrets.token_urlsafe(32)
    session = {"user": request.query_params["user"], "device": "Chrome on Windows"}
    await _store.set(token, json.dumps(session), ex=90 * 86_400)
    response = JSONResponse({})
    response.set_cookie("session", token)
    return response


async def check(request: Request) -> Response:
    found = await _store.get(request.cookies.get("session", ""))
    if found is None:
        return JSONResponse({}, status_code=401)
    return Response(found, media_type="application/json")


app = Starlette(routes=[Route("/login", login), Route("/check", check)])
