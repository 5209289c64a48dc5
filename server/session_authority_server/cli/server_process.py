"""Run one process of `serve --processes`, with an assignment from its parent."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field

import click
import structlog

from session_authority_server.app.process import catch_signals, tune_memory
from session_authority_server.app.running import reload
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.shared import run
from session_authority_server.config import Settings
from session_authority_server.observability import logs
from session_authority_server.rpc.certificates import Certificates

_STANDARD_INPUT = 0
# A process prints this once it serves. A process that can't serve prints the reason instead.
READY = "ready"

_log = structlog.get_logger("session_authority")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The settings and options that a parent sends to a process.

    They go through a pipe, because the database's URL may hold a password. Other users can read command lines, and
    child processes inherit the environment.

    Attributes:
        number: The number of the process, from 0.
        settings: The operator's settings, with the addresses of this process.
        options: The options of this process.
    """

    number: int
    settings: Settings = field(repr=False)
    options: ServeOptions

    def as_line(self) -> str:
        """Return the assignment as one line of text, for `from_line`."""
        settings = self.settings.model_dump(mode="json")
        return json.dumps({"settings": settings, "options": asdict(self.options)}) + "\n"

    @classmethod
    def from_line(cls, number: int, line: str) -> "Assignment":
        """Parse an assignment. Its settings take precedence over the environment and files."""
        read = json.loads(line)
        return cls(number, Settings(**read["settings"]), ServeOptions(**read["options"]))


@click.command()
@click.argument("number", type=int)
@click.pass_context
def server_process(context: click.Context, number: int) -> None:
    """Serve as one process of `serve --processes`, which sends the assignment on standard input."""
    # Unbuffered, because later lines of the parent must stay in the pipe.
    with open(_STANDARD_INPUT, "rb", buffering=0, closefd=False) as parent:
        line = parent.readline().decode()
    if not line:
        raise click.UsageError("only `session-authority serve --processes` can run this program")
    assignment = Assignment.from_line(number, line)
    logs.configure(assignment.settings.log_level, assignment.settings.log_format)
    structlog.contextvars.bind_contextvars(process=number)
    try:
        run(_serve(assignment))
    except click.ClickException as error:
        click.echo(" ".join(error.message.split()))
        context.exit(1)


async def _serve(assignment: Assignment) -> None:
    async with serving(assignment.settings, assignment.options) as served:
        tune_memory()
        signalled = asyncio.create_task(catch_signals().wait())
        orphaned = asyncio.create_task(_obey_parent(served.certificates))
        click.echo(READY)
        await asyncio.wait((signalled, orphaned), return_when=asyncio.FIRST_COMPLETED)
        if orphaned.done():
            orphaned.result()
            _log.warning("the parent process has ended; draining")
        orphaned.cancel()


async def _obey_parent(certificates: Certificates | None) -> None:
    """Reload whenever the parent sends a line with a log level. Return when the parent's end closes the pipe."""
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    try:
        while line := await lines.readline():
            reload(line.decode().strip() or None, certificates)
    finally:
        pipe.close()


if __name__ == "__main__":
    server_process()
