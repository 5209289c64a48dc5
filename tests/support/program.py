"""Commands of the product, as operators run them. Each process is ended by its own id."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import structlog
from click.testing import CliRunner

from session_authority_server.app import development_key
from session_authority_server.cli import commands
from tests.support.forked import Forked

BIN = Path(sys.executable).parent
COMMAND = BIN / "session-authority"
START_SECONDS = 60
EXIT_SECONDS = 60
_COMMAND_SECONDS = 120
HOST = "SESSION_AUTHORITY_HOST"
DATABASE = "session-authority.sqlite"  # the database file of `serving`


# Settings of every process that a test starts.
of_each_server: dict[str, str] = {}


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, in which only the given settings are set."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SESSION_AUTHORITY_")
    }
    return inherited | {"COLUMNS": "120"} | of_each_server | variables


def run(
    *arguments: str, cwd: Path, settings: Mapping[str, str] | None = None, said: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, in this process, since starting a process takes two seconds.

    Asynchronous tests start a process after all, since a command needs its own event loop.
    """
    if _is_in_an_event_loop():
        return run_process(*arguments, cwd=cwd, settings=settings, said=said)
    given = environment(**(settings or {}))
    absent = dict.fromkeys(os.environ.keys() - given.keys())
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with contextlib.chdir(cwd):
            done = CliRunner().invoke(commands, arguments, input=said, env=absent | given)
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
    stderr = done.stderr
    if done.exc_info is not None and not isinstance(done.exception, SystemExit | None):
        stderr += "".join(traceback.format_exception(*done.exc_info))
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, stderr)


def _is_in_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_process(
    *arguments: str, cwd: Path, settings: Mapping[str, str] | None = None, said: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, in a separate process."""
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        env=environment(**(settings or {})),
        input=said,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) / 1024


def development_key_in(folder: Path) -> str:
    """Return the development key that a server created in a folder."""
    return development_key.key_file(folder / DATABASE).read_text().strip()


Process: TypeAlias = "subprocess.Popen[bytes] | Forked"


class Refusal(Protocol):
    """Run a command that must fail, and return its error output."""

    def __call__(self, *arguments: str, **settings: str) -> str: ...


class Program:
    """A command that runs until a signal ends it."""

    def __init__(self, process: Process, out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait_for(self, pattern: str) -> str:
        """Wait for a pattern on standard output, and return its first group."""
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            found = re.search(pattern, self.stdout)
            if found:
                return found[1]
            assert self.process.poll() is None, f"it ended: {self.stdout}\n{self.stderr}"
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in: {self.stdout}\n{self.stderr}")

    @property
    def resident_mib(self) -> float:
        """Return the resident memory of the process, in MiB."""
        return resident_mib(self.process.pid)

    @property
    def address(self) -> str:
        return self.wait_for(r"(?:serving|serves) on (\S+:\d+)(?=[,\s])")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process without a graceful stop."""
        self.process.kill()
        self.process.wait()

    def exit_code(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        return self.process.wait(EXIT_SECONDS)

    def stop(self) -> int:
        self.terminate()
        return self.exit_code()


def _start(
    command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str], out: Path, err: Path
) -> Process:
    if command[0] == COMMAND:
        arguments = [str(each) for each in command[1:]]
        return Forked(arguments, cwd=cwd, environment=environment, out=out, err=err)
    with out.open("wb") as out_file, err.open("wb") as err_file:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
        )


@contextmanager
def running(
    *arguments: str,
    cwd: Path,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str | Path] = (COMMAND,),
) -> Iterator[Program]:
    """Run a command for as long as the context lasts."""
    # Several threads may start programs in one folder at once.
    descriptor, name = tempfile.mkstemp(".out", dir=cwd)
    os.close(descriptor)
    out, err = Path(name), Path(name).with_suffix(".err")
    err.touch()
    process = _start([*command, *arguments], cwd, environment(**(settings or {})), out, err)
    program = Program(process, out, err)
    try:
        yield program
    finally:
        if process.poll() is None:
            program.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                program.kill()


@contextmanager
def serving(
    cwd: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    asking_for_keys: bool = False,
    host: str | None = None,
) -> Iterator[Program]:
    """Serve on a free port, from DATABASE in `cwd`. API keys are off unless requested."""
    chosen = {} if host is None else {HOST: host}
    given = ("--listen", "127.0.0.1:0", *(() if asking_for_keys else ("--insecure",)), *arguments)
    with running("serve", *given, cwd=cwd, settings=chosen | dict(settings or {})) as it:
        assert it.address
        yield it


@contextmanager
def writers_held_up(folder: Path) -> Iterator[None]:
    """Block every writer of `serving`, as another program that writes to its file does."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
