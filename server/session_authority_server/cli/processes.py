"""Serve with several processes on one port."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import click

from session_authority_server.app.database import opened
from session_authority_server.app.grpc_server import certificates, refuse_exposure
from session_authority_server.app.process import CannotStart, catch_signals
from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli.reserved_port import reserved
from session_authority_server.cli.server_process import Assignment
from session_authority_server.cli.supervisor import Supervisor
from session_authority_server.config import Settings, split_address

# How long a draining process may take beyond its calls: for its activity, transactions and connections.
MARGIN_SECONDS = 20.0


async def serve_processes(settings: Settings, options: ServeOptions) -> None:
    """Serve with several processes until SIGTERM or SIGINT, then drain them.

    Raises:
        CannotStart: If they can't all serve.
    """
    # What is wrong for all of them is reported once, here.
    refuse_exposure(settings, insecure=options.insecure, allow_plaintext=options.allow_plaintext)
    refuse_sqlite(settings)
    certificates(settings)
    with reserved(settings.listen) as address, _standard_output() as output:
        tasks = assignments(settings, address, replace(options, standard_output=output))
        async with opened(settings):
            pass
        signalled = asyncio.create_task(catch_signals().wait())
        async with Supervisor(tasks, settings.drain_seconds + MARGIN_SECONDS) as supervisor:
            serving = asyncio.create_task(supervisor.serving.wait())
            await supervisor.run_until(serving, signalled)
            if serving.done():
                click.echo(
                    f"session-authority: serving on {address}, sessions in {settings.database}, "
                    f"{settings.processes} processes"
                )
                await supervisor.run_until(signalled)
            click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


@contextlib.contextmanager
def _standard_output() -> Iterator[int]:
    """Give a descriptor of standard output for the processes, whose own standard output is a pipe to their parent."""
    descriptor = os.dup(1)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_sqlite(settings: Settings) -> None:
    """Refuse several processes on a SQLite file.

    Raises:
        CannotStart: If sessions are in a SQLite file.
    """
    if settings.sqlite_path is not None:
        raise CannotStart(
            f"{settings.processes} processes can't serve {settings.database}: SQLite takes one server process. "
            "Leave out --processes (SESSION_AUTHORITY_PROCESSES), or name a PostgreSQL database in "
            "SESSION_AUTHORITY_DATABASE_URL"
        )


def assignments(settings: Settings, address: str, options: ServeOptions) -> list[Assignment]:
    """Return the assignment of each process. Only the first process runs the upkeep.

    Raises:
        CannotStart: If there are not enough ports for the metrics.
    """
    return [
        Assignment(
            number,
            settings.model_copy(
                update={"listen": address, "metrics_listen": metrics_listen(settings, number)}
            ),
            replace(options, worker=options.worker and number == 0, share_port=True),
        )
        for number in range(settings.processes)
    ]


def metrics_listen(settings: Settings, number: int) -> str:
    """Return where a process serves its metrics: on the setting's port plus the process's number.

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
