"""The program of one process of `serve --processes`, and what its parent sends it."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field

import click
import structlog

from session_authority_server.app.process import catch_signals, tune_memory
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.shared import run
from session_authority_server.config import Settings
from session_authority_server.observability import logs

# What a process prints once it serves. A process that can't serve prints the reason instead.
READY = "ready"

_log = structlog.get_logger("session_authority")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a parent sends to a process.

    It goes through a pipe. Other users can read command lines and environments, and the address of the database may
    hold a password.

    Attributes:
        number: The number of the process, from 0.
        settings: What the operator set, with the addresses of this process.
        options: What is decided for this process.
    """

    number: int
    settings: Settings = field(repr=False)
    options: ServeOptions

    def as_line(self) -> str:
        """Return the assignment as one line of text, as `from_line` reads it."""
        settings = self.settings.model_dump(mode="json")
        return json.dumps({"settings": settings, "options": asdict(self.options)}) + "\n"

    @classmethod
    def from_line(cls, number: int, line: str) -> "Assignment":
        """Return the assignment in a line of text. It outranks the environment and files."""
        read = json.loads(line)
        return cls(number, Settings(**read["settings"]), ServeOptions(**read["options"]))


@click.command()
@click.argument("number", type=int)
@click.pass_context
def server_process(context: click.Context, number: int) -> None:
    """Be one of the processes of `serve --processes`, which sends the assignment on standard input."""
    line = sys.stdin.readline()
    if not line:
        raise click.UsageError(
            "`session-authority serve --processes` runs this; it does nothing else"
        )
    assignment = Assignment.from_line(number, line)
    logs.configure(assignment.settings.log_level, assignment.settings.log_format)
    structlog.contextvars.bind_contextvars(process=number)
    try:
        run(_serve(assignment))
    except click.ClickException as error:
        click.echo(" ".join(error.message.split()))
        context.exit(1)


async def _serve(assignment: Assignment) -> None:
    async with serving(assignment.settings, assignment.options):
        tune_memory()
        signalled = catch_signals()
        click.echo(READY)
        await _until_signalled_or_alone(signalled)


async def _until_signalled_or_alone(signalled: asyncio.Event) -> None:
    """Wait for a signal, or for the end of the parent, which holds standard input open."""
    loop = asyncio.get_running_loop()
    alone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), alone.set)
    waiting = [asyncio.create_task(signalled.wait()), asyncio.create_task(alone.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sys.stdin.fileno())
    if alone.is_set():
        _log.warning("the parent process is gone; draining")


if __name__ == "__main__":
    server_process()
