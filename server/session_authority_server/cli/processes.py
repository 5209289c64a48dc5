"""Serve on one port with several processes."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from session_authority_server.app.database import opened
from session_authority_server.app.grpc_server import certificates, refuse_exposure
from session_authority_server.app.locations import read_locations
from session_authority_server.app.process import CannotStart, catch_signals, notify
from session_authority_server.app.running import read_log_level, reload
from session_authority_server.app.serving import ServeOptions
from session_authority_server.cli.reserved_port import reserved
from session_authority_server.cli.server_process import Assignment
from session_authority_server.cli.supervisor import Supervisor
from session_authority_server.config import Settings, split_address

# Added to the drain time of calls, for writing activity and closing transactions and connections.
DRAIN_MARGIN_SECONDS = 20.0


async def serve_processes(
    settings: Settings, options: ServeOptions, config_file: Path | None
) -> None:
    """Serve with several processes until SIGTERM or SIGINT, then drain them.

    Raises:
        CannotStart: If any process can't serve.
    """
    # Check here what all processes have in common, so that an error is reported once.
    refuse_exposure(settings, insecure=options.insecure, allow_plaintext=options.allow_plaintext)
    refuse_sqlite(settings)
    certificates(settings)
    read_locations(settings)
    with reserved(settings.listen) as address, _standard_output() as output:
        tasks = assignments(settings, address, replace(options, standard_output=output))
        async with opened(settings):
            pass
        async with Supervisor(tasks, settings.drain_seconds + DRAIN_MARGIN_SECONDS) as supervisor:

            def reload_all() -> None:
                level = read_log_level(config_file)
                reload(level)
                supervisor.reload(level)

            signalled = asyncio.create_task(catch_signals(reload_all).wait())
            serving = asyncio.create_task(supervisor.serving.wait())
            await supervisor.run_until(serving, signalled)
            if serving.done():
                click.echo(
                    f"session-authority: serving on {address}, sessions in {settings.database}, "
                    f"{settings.processes} processes"
                )
                notify("READY=1")
                await supervisor.run_until(signalled)
            notify("STOPPING=1")
            click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


@contextlib.contextmanager
def _standard_output() -> Iterator[int]:
    """Yield a duplicate of standard output, for server processes whose own standard output is a pipe."""
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
            f"{settings.processes} processes can't serve {settings.database}: a SQLite file takes one server process. "
            "Leave out --processes (SESSION_AUTHORITY_PROCESSES), or set SESSION_AUTHORITY_DATABASE_URL to a "
            "PostgreSQL database"
        )


def assignments(settings: Settings, address: str, options: ServeOptions) -> list[Assignment]:
    """Return the assignment of each process. Only the first process runs the worker.

    Raises:
        CannotStart: If a port for metrics would be above 65535.
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
    """Return a process's address for metrics: the setting's port plus the process's number.

    Raises:
        CannotStart: If the port would be above 65535.
    """
    if not settings.metrics_listen:
        return ""
    host = settings.metrics_listen.rpartition(":")[0]
    port = split_address(settings.metrics_listen)[1]
    if port == 0:
        return settings.metrics_listen
    if port + number > 65_535:
        raise CannotStart(
            f"{settings.processes} processes need as many ports for metrics, from {port} on, and the last would be "
            "above 65535; set SESSION_AUTHORITY_METRICS_LISTEN to a lower port"
        )
    return f"{host}:{port + number}"
