"""Serves Envoy's Check as the gateway does, or the same method with an empty answer, on either host."""

import argparse
import asyncio
from collections.abc import Sequence

import uvloop

from session_authority import AsyncSessionClient, NearCache
from session_authority_gateway.application import new_parts
from session_authority_gateway.ext_authz import PACKAGE, Checks
from session_authority_gateway.settings import load_gateway_settings
from session_authority_server.app.process import tune_memory
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.host import Health, Host
from session_authority_server.rpc.host.grpcio import GrpcioHost
from session_authority_server.rpc.host.native import NativeHost

CHECK = f"/{PACKAGE}.Authorization/Check"


class Empty(Checks):
    """Answers each call with an empty message."""

    def take(self, call: Call, payload: bytes) -> None:
        call.answer(b"")


def _host(name: str, checks: Checks) -> Host:
    grpcio = GrpcioHost(checks, {}, Health(), package=PACKAGE)
    return grpcio if name == "grpcio" else NativeHost(checks, grpcio)


async def _serve(kind: type[Checks], host_name: str, address: str) -> None:
    async with AsyncSessionClient(address, near_cache=NearCache(100_000)) as client:
        host = _host(host_name, kind(new_parts(load_gateway_settings(), client).gate))
        bound = host.bind("127.0.0.1:0")
        await host.start()
        tune_memory()
        print(bound, flush=True)
        await host.ended()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("check", "empty"))
    parser.add_argument("host")
    parser.add_argument("authority")
    given = parser.parse_args(arguments)
    kind = Checks if given.kind == "check" else Empty
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(kind, given.host, given.authority))


if __name__ == "__main__":
    main()
