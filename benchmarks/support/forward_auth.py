"""Serves `/verify` as the gateway does, or an empty Starlette response on the same HTTP server."""

import argparse
import asyncio
from collections.abc import Sequence

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from session_authority import AsyncSessionClient, NearCache
from session_authority_gateway.application import new_application, new_parts
from session_authority_gateway.http_server import listening_socket, serving_http
from session_authority_gateway.settings import load_gateway_settings
from session_authority_server.app.process import tune_memory


async def _empty(_request: Request) -> Response:
    return Response()


async def _serve(kind: str, address: str) -> None:
    async with AsyncSessionClient(address, near_cache=NearCache(100_000)) as client:
        application: ASGIApp = Starlette(routes=[Route("/verify", _empty)])
        if kind == "verify":
            application = new_application(new_parts(load_gateway_settings(), client), lambda: True)
        with listening_socket("127.0.0.1:0") as listening:
            async with serving_http(application, listening, None, 1):
                tune_memory()
                host, port = listening.getsockname()
                print(f"{host}:{port}", flush=True)
                await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("verify", "empty"))
    parser.add_argument("authority")
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(given.kind, given.authority))


if __name__ == "__main__":
    main()
