"""Start processes, keep them alive, and drain them together."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import structlog

from session_authority_server.app.process import CannotStart
from session_authority_server.cli.server_process import READY, Assignment

# The wait before the first restart of a process. Each further wait is twice as long, up to LONGEST_WAIT_SECONDS.
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0
# If a process ran for at least this long, its next wait is FIRST_WAIT_SECONDS again.
STEADY_SECONDS = 60.0

# A new interpreter, because gRPC doesn't survive a fork. With -P, it imports nothing from the working folder.
_COMMAND = (sys.executable, "-P", "-m", "session_authority_server.cli.server_process")
_STANDARD_ERROR = 2

_log = structlog.get_logger("session_authority")


def wait_seconds(ends: int) -> float:
    """Return the wait before a process is restarted, after this number of ends in a row."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(ends - 1, 16), LONGEST_WAIT_SECONDS)


class Supervisor:
    """Starts server processes, and restarts each one that ends, while the context lasts.

    At the end of the context, all processes drain. Processes that exceed `stop_seconds` are killed.

    Attributes:
        serving: Set once every process has reported READY.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        stop_seconds: float,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self.serving = asyncio.Event()
        self._assignments = {each.number: each for each in assignments}
        self._stop_seconds = stop_seconds
        self._command = command
        self._alive: dict[int, subprocess.Popen[bytes]] = {}
        self._have_served: set[int] = set()
        self._stopping = asyncio.Event()
        self._keeper_tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start the processes."""
        self._keeper_tasks = [
            asyncio.create_task(self._keep_running(number)) for number in self._assignments
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drain the processes, and wait until they have ended."""
        self._stopping.set()
        try:
            for process in self._alive.values():
                process.terminate()
            late = (await asyncio.wait(self._keeper_tasks, timeout=self._stop_seconds))[1]
            if late:
                _log.error("server processes did not end in time; killing them", count=len(late))
        finally:  # even if the wait is interrupted
            for process in self._alive.values():
                process.kill()
        await asyncio.gather(*self._keeper_tasks, return_exceptions=True)

    async def run_until(self, *tasks: asyncio.Task[object]) -> None:
        """Keep the processes alive until one of the tasks is done.

        Raises:
            CannotStart: If a process ended before it first served.
        """
        await asyncio.wait({*tasks, *self._keeper_tasks}, return_when=asyncio.FIRST_COMPLETED)
        for keeper in self._keeper_tasks:
            if keeper.done():
                keeper.result()

    def reload(self, log_level: str | None) -> None:
        """Make every process reload its certificates, and apply a log level unless it is None.

        Processes that start later also use the log level.
        """
        if log_level is not None:
            for number, each in self._assignments.items():
                settings = each.settings.model_copy(update={"log_level": log_level})
                self._assignments[number] = replace(each, settings=settings)
        for number, process in self._alive.items():
            if not _send(process, f"{log_level or ''}\n"):
                _log.error("a server process takes no more reloads; does it hang?", process=number)

    async def _keep_running(self, number: int) -> None:
        now = asyncio.get_running_loop().time
        ends = 0
        while not self._stopping.is_set():
            started = now()
            why = await self._run_until_end(self._assignments[number])
            if self._stopping.is_set():
                return
            if number not in self._have_served:
                raise CannotStart(why)
            ends = 1 if now() - started >= STEADY_SECONDS else ends + 1
            seconds = wait_seconds(ends)
            _log.warning(
                "a server process ended; restarting it",
                process=number,
                why=why,
                wait_seconds=seconds,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run_until_end(self, assignment: Assignment) -> str:
        """Run a process from its start to its end, and return why it ended."""
        try:
            process = start(assignment, self._command)
        except OSError as error:
            return f"a server process can't be started: {error}"
        self._alive[assignment.number] = process
        output = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), process.stdout
        )
        word = (await output.readline()).decode().strip()
        if word == READY:
            self._have_served.add(assignment.number)
            if len(self._have_served) == len(self._assignments):
                self.serving.set()
        await output.read()  # the pipe closes when the process ends
        pipe.close()
        status = await asyncio.to_thread(process.wait)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        del self._alive[assignment.number]
        end = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if word == READY:
            return end
        return word or f"a server process ended before it could serve: {end}"


def start(assignment: Assignment, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start a process, and send it its assignment.

    The process's standard input closes when the parent ends, so the process can notice that. Its standard output
    carries READY, or the reason why the process can't serve.

    Raises:
        OSError: If the system can't start another process.
    """
    # A terminal sends SIGINT to every process on Ctrl-C, and SIGHUP when it is closed. Both are blocked in the child,
    # so only the parent acts on them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        process = subprocess.Popen(  # noqa: S603 - this program's own interpreter
            [*command, str(assignment.number)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd for fd in [assignment.options.standard_output] if fd > _STANDARD_ERROR],
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _send(process, assignment.as_line())
    assert process.stdin is not None
    # From now on, a process that hangs must not block its parent when the pipe is full.
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _send(process: "subprocess.Popen[bytes]", line: str) -> bool:
    """Send a line to a process. Return whether the pipe had room for it."""
    assert process.stdin is not None
    try:
        return process.stdin.write(line.encode()) is not None
    except BrokenPipeError:
        return True  # The process has ended already. Its output then names the reason.
