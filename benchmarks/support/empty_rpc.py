"""Serves an empty RPC with grpc.aio, to measure the overhead of grpc.aio alone."""

import asyncio
from typing import Any

import grpc
import uvloop
from google.protobuf.empty_pb2 import Empty

EMPTY = "/benchmark.Empty/Empty"


async def _empty(request: Empty, context: Any) -> Empty:
    return Empty()


async def _serve() -> None:
    handler: Any = grpc.unary_unary_rpc_method_handler(
        _empty, Empty.FromString, Empty.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmark.Empty", {"Empty": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
