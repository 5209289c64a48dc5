"""Runs the `serve` command in a process of its own, and an empty RPC to compare it with."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.support.empty_rpc import EMPTY
from benchmarks.support.process import LOAD_CORE, SERVER_CORE, cpu_seconds, pin, started

__all__ = [
    "BATCH",
    "CREATE",
    "EMPTY",
    "HOSTS",
    "LIST",
    "VALIDATE",
    "cpu_seconds",
    "empty",
    "process",
]

HOSTS = ("grpcio", "native")
VALIDATE = "/session_authority.v1.SessionService/ValidateSession"
BATCH = "/session_authority.v1.SessionService/BatchValidateSessions"
LIST = "/session_authority.v1.SessionService/ListSessions"
CREATE = "/session_authority.v1.SessionService/CreateSession"


@contextlib.contextmanager
def process(
    database: str,
    core: int | None = SERVER_CORE,
    *,
    host: str = "auto",
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """Serve a database on one core, and move this process to the other. Yield address and process id."""
    variables = {"DATABASE_URL": database, "HOST": host, **(settings or {})}
    command = (Path(sys.executable).parent / "session-authority", "serve", "--no-worker")
    with started(
        (*command, "--insecure", "--listen", "127.0.0.1:0"),
        core=core,
        environment={
            **{f"SESSION_AUTHORITY_{name}": value for name, value in variables.items()},
            **(environment or {}),
        },
    ) as server:
        if core is not None:
            pin(0, LOAD_CORE)
        assert server.stdout is not None
        line = server.stdout.readline()
        if "serving on " not in line:
            raise SystemExit("the server did not start")
        yield line.partition("serving on ")[2].partition(",")[0], server.pid


@contextlib.contextmanager
def empty() -> Iterator[tuple[str, int]]:
    """Serve an empty RPC on the same core. Yield address and process id."""
    command = (sys.executable, "-m", "benchmarks.support.empty_rpc")
    with started(command) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
