"""Commands in forked processes. The parent has imported the program, so they start five times faster."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from session_authority_server.app import serving, upkeep
from session_authority_server.cli import commands, demo, migrate, serve, worker
from session_authority_server.rpc.host import grpcio, native

IMPORTED = (serving, upkeep, demo, migrate, serve, worker, grpcio, native)

# The variable that names a module to import before the command runs. The module may change constants of the product.
IMPORT_FIRST = "TESTS_IMPORT_FIRST"

# Forking is safe, since the forking process has imported gRPC but not used it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class Forked:
    """A process, with the methods of `subprocess.Popen` that tests call."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        out: Path,
        err: Path,
    ) -> None:
        given = (list(arguments), cwd, dict(environment), out, err)
        self._process = _context.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("session-authority", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if first := os.environ.pop(IMPORT_FIRST, ""):
        import_module(first)
    for descriptor, path in enumerate((Path(os.devnull), out, err)):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT if descriptor else os.O_RDONLY
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.argv = ["session-authority", *arguments]
    commands(arguments)
