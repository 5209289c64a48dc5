"""Sessions of the package starsessions, stored in Redis."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore


async def login(request: Request) -> Response:
    request.session["user"] = request.query_params["user"]
    request.session["device"] = "Chrome on Windows"
    return JSONResponse({})


async def check(request: Request) -> Response:
    if "user" not in request.session:
        return JSONResponse({}, status_code=401)
    return JSONResponse(dict(request.session))


app = Starlette(
    routes=[Route("/login", login), Route("/check", check)],
    middleware=[
        Middleware(
            SessionMiddleware,
            store=RedisStore(os.environ["REDIS_URL"]),
            cookie_https_only=False,
            lifetime=90 * 86_400,
        ),
        Middleware(SessionAutoloadMiddleware),
    ],
)
