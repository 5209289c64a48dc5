"""Several server processes on one port: started, kept alive and drained together."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import click
import structlog

from session_authority_server.app.database import opened
from session_authority_server.app.errors import CannotStart
from session_authority_server.app.grpc_server import certificates, refuse_exposure
from session_authority_server.app.process import until_signalled
from session_authority_server.cli.reserved_port import reserved
from session_authority_server.cli.server_process import READY, Assignment
from session_authority_server.config import Settings, split_address

# How long a process that drains may take beyond its calls: for its activity, transactions and connections.
MARGIN_SECONDS = 20.0
# How long a place stays empty after its process ended: this at first, then twice as long each time.
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0
# A process that lived this long has shown that it can; its end counts as the first one.
STEADY_SECONDS = 60.0

# A fresh interpreter, for gRPC doesn't survive a fork; what lies in the working folder is not imported (-P).
_COMMAND = (sys.executable, "-P", "-m", "session_authority_server.cli", "server-process")

_STANDARD_ERROR = 2

_log = structlog.get_logger("session_authority")


async def serve_processes(
    settings: Settings, *, worker: bool, insecure: bool, allow_plaintext: bool
) -> None:
    """Serve with several processes until SIGTERM or SIGINT, then drain them.

    Args:
        settings: What the operator set.
        worker: Whether to run the upkeep too, in the first of them.
        insecure: Whether to serve without encryption beyond this machine.
        allow_plaintext: Whether something in front encrypts what comes from beyond this machine.

    Raises:
        CannotStart: If they can't all serve.
    """
    refuse_exposure(settings, insecure=insecure, allow_plaintext=allow_plaintext)
    refuse_sqlite(settings)
    certificates(settings)  # what is wrong with them is told once
    with reserved(settings.listen) as address, _standard_output() as output:
        tasks = [
            replace(each, standard_output=output)
            for each in assignments(
                settings,
                address,
                worker=worker,
                insecure=insecure,
                allow_plaintext=allow_plaintext,
            )
        ]
        async with opened(settings):
            pass  # what is wrong with the database is told once
        told = asyncio.create_task(until_signalled())
        async with Processes(tasks, settings.drain_seconds + MARGIN_SECONDS) as processes:
            serving = asyncio.create_task(processes.serving.wait())
            await processes.keep_until(serving, told)
            if serving.done():
                click.echo(
                    f"session-authority: serving on {address}, sessions in {settings.database}, "
                    f"{settings.processes} processes"
                )
                await processes.keep_until(told)
            click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


@contextlib.contextmanager
def _standard_output() -> Iterator[int]:
    """Give a descriptor of this process's standard output that can be handed on: a process has its own."""
    descriptor = os.dup(1)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_sqlite(settings: Settings) -> None:
    """Refuse several processes on a SQLite file.

    Raises:
        CannotStart: If sessions are in one.
    """
    if settings.sqlite_path is not None:
        raise CannotStart(
            f"{settings.processes} processes can't serve {settings.database}: SQLite takes one server process. "
            "Leave out --processes (SESSION_AUTHORITY_PROCESSES), or name a PostgreSQL database in "
            "SESSION_AUTHORITY_DATABASE_URL"
        )


def assignments(
    settings: Settings,
    address: str,
    *,
    worker: bool,
    insecure: bool,
    allow_plaintext: bool = False,
) -> list[Assignment]:
    """Return what each process is to do.

    Args:
        settings: What the operator set.
        address: Where all of them serve.
        worker: Whether the first one runs the upkeep too.
        insecure: Whether to serve without encryption beyond this machine.
        allow_plaintext: Whether something in front encrypts what comes from beyond this machine.

    Raises:
        CannotStart: If there are not enough ports for the metrics.
    """
    return [
        Assignment(
            number,
            settings.model_copy(
                update={"listen": address, "metrics_listen": metrics_listen(settings, number)}
            ),
            worker=worker and number == 0,
            insecure=insecure,
            allow_plaintext=allow_plaintext,
        )
        for number in range(settings.processes)
    ]


def metrics_listen(settings: Settings, number: int) -> str:
    """Return where a process serves its metrics: on the port as many after the first as its number.

    Raises:
        CannotStart: If there is no such port.
    """
    if not settings.metrics_listen:
        return ""
    host = settings.metrics_listen.rpartition(":")[0]
    port = split_address(settings.metrics_listen)[1]
    if port == 0:
        return settings.metrics_listen
    if port + number > 65_535:
        raise CannotStart(
            f"{settings.processes} processes serve metrics on as many ports from {port} on, and there are none "
            "after 65535; set SESSION_AUTHORITY_METRICS_LISTEN to a lower one"
        )
    return f"{host}:{port + number}"


def wait_seconds(ends: int) -> float:
    """Return how long to wait before a process is started anew, after so many ends in a row."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(ends - 1, 16), LONGEST_WAIT_SECONDS)


class ServerProcess:
    """A server process as its parent sees it.

    Its standard input stays open as long as the parent lives, which is how it learns that the parent is gone.
    """

    def __init__(self, assignment: Assignment, command: Sequence[str] = _COMMAND) -> None:
        """Start it.

        Raises:
            OSError: If the system has no room for a process.
        """
        # A terminal sends Ctrl-C to everybody. Blocked from birth, it is for the parent alone to act on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this program's own interpreter
                [*command, str(assignment.number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[fd for fd in [assignment.standard_output] if fd > _STANDARD_ERROR],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._said = asyncio.StreamReader()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, as will be seen
            self._process.stdin.write(assignment.as_line().encode())
            self._process.stdin.flush()

    async def word(self) -> str:
        """Wait for what it says: READY, or why it can't serve, or nothing if it just ended."""
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._said), self._process.stdout
        )
        return (await self._said.readline()).decode().strip()

    async def end(self) -> str:
        """Wait for its end, and return what brought it about."""
        await self._said.read()  # until the pipe closes, as it does when the process ends
        status = await asyncio.to_thread(self._process.wait)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def terminate(self) -> None:
        """Tell it to drain."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, if it hasn't ended."""
        self._process.kill()


class Processes:
    """Server processes, each started anew when it ends, for as long as the context lasts.

    When it is left they all drain, and what still lives after the time for that is killed.

    Attributes:
        serving: Set when all of them have once been ready to serve.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        stop_seconds: float,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self.serving = asyncio.Event()
        self._assignments = assignments
        self._stop_seconds = stop_seconds
        self._command = command
        self._alive: dict[int, ServerProcess] = {}
        self._have_served: set[int] = set()
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start them."""
        self._keepers = [asyncio.create_task(self._keep(each)) for each in self._assignments]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Have them drain, and wait for it."""
        self._stopping.set()
        try:
            for process in self._alive.values():
                process.terminate()
            late = (await asyncio.wait(self._keepers, timeout=self._stop_seconds))[1]
            if late:
                _log.error("server processes did not end in time; killing them", count=len(late))
        finally:  # whoever interrupts the waiting leaves nothing behind
            for process in self._alive.values():
                process.kill()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def keep_until(self, *tasks: asyncio.Task[object]) -> None:
        """Keep them alive until one of the tasks is done.

        Raises:
            CannotStart: If one of them ended before it ever served.
        """
        await asyncio.wait({*tasks, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()

    async def _keep(self, assignment: Assignment) -> None:
        now = asyncio.get_running_loop().time
        ends = 0
        while not self._stopping.is_set():
            started = now()
            why = await self._live(assignment)
            if self._stopping.is_set():
                return
            if assignment.number not in self._have_served:
                raise CannotStart(why)
            ends = 1 if now() - started >= STEADY_SECONDS else ends + 1
            seconds = wait_seconds(ends)
            _log.warning(
                "a server process ended; starting it anew",
                process=assignment.number,
                why=why,
                wait_seconds=seconds,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _live(self, assignment: Assignment) -> str:
        """Run a process from its start to its end, and return why it ended."""
        try:
            process = ServerProcess(assignment, self._command)
        except OSError as error:
            return f"no server process can be started: {error}"
        self._alive[assignment.number] = process
        word = await process.word()
        if word == READY:
            self._have_served.add(assignment.number)
            if len(self._have_served) == len(self._assignments):
                self.serving.set()
        end = await process.end()
        del self._alive[assignment.number]
        if word == READY:
            return end
        return word or f"a server process ended before it could serve: {end}"
