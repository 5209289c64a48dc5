"""One of the processes of `serve --processes`, and what it and its parent say to each other."""

import asyncio
import json
import sys
from dataclasses import dataclass, field

import click
import structlog

from session_authority_server.app.process import tune_gc, until_signalled
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.running import run
from session_authority_server.config import Settings
from session_authority_server.observability import logs

# What a process says to its parent when it serves; if it can't, it says why in its place.
READY = "ready"

_log = structlog.get_logger("session_authority")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a parent tells a process to do.

    It goes through a pipe: command lines and environments can be read by others, and the address of the
    database may hold a password.

    Attributes:
        number: Which of the processes it is, from 0.
        settings: What the operator set, with the address and metrics of this process.
        worker: Whether it runs the upkeep too.
        insecure: Whether to serve without encryption beyond this machine.
        allow_plaintext: Whether something in front encrypts what comes from beyond this machine.
        standard_output: The parent's, for the process's own is where it talks with the parent.
    """

    number: int
    settings: Settings = field(repr=False)
    worker: bool
    insecure: bool
    allow_plaintext: bool = False
    standard_output: int = 1

    def as_line(self) -> str:
        """Return it as one line of text, as `from_line` reads it."""
        told = {
            "settings": self.settings.model_dump(mode="json"),
            "worker": self.worker,
            "insecure": self.insecure,
            "allow_plaintext": self.allow_plaintext,
            "standard_output": self.standard_output,
        }
        return json.dumps(told) + "\n"

    @classmethod
    def from_line(cls, number: int, line: str) -> "Assignment":
        """Return what a line of text says. The environment and files count for nothing here."""
        told = json.loads(line)
        return cls(number, Settings(**told.pop("settings")), **told)


@click.command("server-process", hidden=True)
@click.argument("number", type=int)
@click.pass_context
def server_process(context: click.Context, number: int) -> None:
    """Be one of the processes of `serve --processes`, which tells this one its task on standard input."""
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
    options = ServeOptions(
        worker=assignment.worker,
        insecure=assignment.insecure,
        allow_plaintext=assignment.allow_plaintext,
        share_port=True,
        standard_output=assignment.standard_output,
    )
    async with serving(assignment.settings, options):
        tune_gc()
        click.echo(READY)
        await _until_told_or_alone()


async def _until_told_or_alone() -> None:
    """Wait for the word to stop, or for the end of the parent, which holds standard input open."""
    loop = asyncio.get_running_loop()
    alone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), alone.set)
    waiting = [asyncio.create_task(until_signalled()), asyncio.create_task(alone.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sys.stdin.fileno())
    if alone.is_set():
        _log.warning("the parent process is gone; draining")
