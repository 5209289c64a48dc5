import shlex
import sys
from functools import partial
from pathlib import Path

import click

from session_authority_server.app.development_key import VARIABLE, key_file
from session_authority_server.app.process import (
    allow_many_connections,
    catch_signals,
    notify,
    tune_memory,
)
from session_authority_server.app.running import read_log_level, reload
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.processes import serve_processes
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings


@click.command()
@click.option("--listen", help="The address to serve on, as host:port. Port 0 picks a free port.")
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.option(
    "--processes", type=int, help="Number of processes that serve on the port; PostgreSQL only."
)
@click.option(
    "--no-worker",
    is_flag=True,
    help="Don't run the worker in this process; run `session-authority worker` instead.",
)
@click.option(
    "--allow-plaintext",
    is_flag=True,
    help="Serve other machines without TLS, because a mesh or proxy in front encrypts.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Require no API keys and no TLS, even from other machines. Any caller has all permissions.",
)
@click.pass_context
def serve(
    context: click.Context,
    listen: str | None,
    database_url: str | None,
    processes: int | None,
    no_worker: bool,
    allow_plaintext: bool,
    insecure: bool,
) -> None:
    """Serve the API until SIGTERM, then drain."""
    settings = settings_of(context, listen=listen, database_url=database_url, processes=processes)
    options = ServeOptions(worker=not no_worker, insecure=insecure, allow_plaintext=allow_plaintext)
    allow_many_connections()
    run((serve_processes if settings.processes > 1 else _serve)(settings, options, context.obj))


async def _serve(settings: Settings, options: ServeOptions, config_file: Path | None) -> None:
    async with serving(
        settings, options, show_key=partial(_show_development_key, settings)
    ) as served:
        tune_memory()
        signalled = catch_signals(lambda: reload(read_log_level(config_file), served.certificates))
        click.echo(
            f"session-authority: serving on {served.address}, sessions in {settings.database} ({served.host} host)"
        )
        notify("READY=1")
        await signalled.wait()
        notify("STOPPING=1")
        click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


def _show_development_key(settings: Settings, key: str) -> None:
    """Print how to use the development key. Print the key itself only to a terminal, because files are kept and copied."""
    assert settings.sqlite_path is not None
    file = key_file(settings.sqlite_path)
    click.echo(f"session-authority: created a development key with all permissions, in {file}:")
    shown = key if sys.stdout.isatty() else f'"$(cat {shlex.quote(str(file))})"'
    click.echo(f"export {VARIABLE}={shown}")
