import contextlib
import resource

import click

from session_authority_server.app.development_key import VARIABLE
from session_authority_server.app.process import catch_signals, notify, tune_memory
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.processes import serve_processes
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings

_OPEN_FILES = 65_536, 10_240, 4_096  # each connection needs one; a client opens up to six


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
    _allow_many_connections()
    run((serve_processes if settings.processes > 1 else _serve)(settings, options))


def _allow_many_connections() -> None:
    # Shells and systemd set 1,024 for programs that use select(). Child processes inherit the new limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in _OPEN_FILES:
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft >= wanted or soft == resource.RLIM_INFINITY:
            return
        # Some systems refuse their own hard limit, and macOS reports an infinite one.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


async def _serve(settings: Settings, options: ServeOptions) -> None:
    async with serving(settings, options, show_key=show_development_key) as served:
        tune_memory()
        signalled = catch_signals()
        click.echo(
            f"session-authority: serving on {served.address}, sessions in {settings.database} ({served.host} host)"
        )
        notify("READY=1")
        await signalled.wait()
        notify("STOPPING=1")
        click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


def show_development_key(key: str) -> None:
    """Print the development key for the operator. The log never contains it."""
    click.echo("session-authority: created a development key with all permissions:")
    click.echo(f"export {VARIABLE}={key}")
