"""An authority in a process of its own, beside an empty RPC, for benchmarks."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf.empty_pb2 import Empty

from session_authority.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from session_authority_server import logs
from session_authority_server.app import calm_garbage_collector, until_told_to_stop
from session_authority_server.composing import usecases
from session_authority_server.config import load_settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.policy import Policy
from session_authority_server.opening import opened
from session_authority_server.rpc.authentication import anybody
from session_authority_server.rpc.interceptor import CallInterceptor
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.store.sql_store import SqlSessionStore
from session_authority_server.usecases.activity import Activity

EMPTY = "/benchmark.Empty/Empty"
VALIDATE = "/session_authority.v1.SessionService/ValidateSession"
LIST = "/session_authority.v1.SessionService/ListSessions"
CREATE = "/session_authority.v1.SessionService/CreateSession"


@contextlib.contextmanager
def process(database: str, core: int | None = 0) -> Iterator[tuple[str, int]]:
    """Run an authority on one core; gives its address and process id."""
    command = [sys.executable, "-m", "benchmarks.authority", database]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if core is not None and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(server.pid, {core})
            os.sched_setaffinity(0, {core + 1})
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            raise SystemExit("the server did not start")
        yield address, server.pid
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _empty(request: Empty, context: Any) -> Empty:
    return Empty()


async def _serve(database: str) -> None:
    clock, policy = SystemClock(), Policy()
    async with opened(load_settings(database_url=database), make_schema=True) as opened_database:
        store = SqlSessionStore(opened_database)
        activity = Activity(store, clock, policy)
        server = grpc.aio.server(interceptors=[CallInterceptor("session_authority.v1", anybody)])
        service = SessionService(usecases(store, clock, policy, activity), clock)
        add_SessionServiceServicer_to_server(service, server)
        empty: Any = grpc.unary_unary_rpc_method_handler(
            _empty, Empty.FromString, Empty.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("benchmark.Empty", {"Empty": empty}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        flushing = asyncio.create_task(activity.run())
        print(f"127.0.0.1:{port}", flush=True)
        await until_told_to_stop()
        flushing.cancel()
        await server.stop(1)


if __name__ == "__main__":
    # To standard error: nobody reads what comes after the address, and a pipe that is full would stop the server.
    logs.configure("warning", "auto")
    calm_garbage_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1]))
