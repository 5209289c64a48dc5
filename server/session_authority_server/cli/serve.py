import contextlib
import resource

import click

from session_authority_server.app.development_key import VARIABLE
from session_authority_server.app.process import catch_signals, tune_memory
from session_authority_server.app.serving import ServeOptions, serving
from session_authority_server.cli.processes import serve_processes
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings

_OPEN_FILES = 65_536, 10_240, 4_096  # one for each connection; a client opens up to six


@click.command()
@click.option("--listen", help="Where to serve, as host:port; port 0 picks a free one.")
@click.option("--database-url", help="Where sessions are kept.")
@click.option(
    "--processes", type=int, help="How many processes serve on the port; PostgreSQL only."
)
@click.option("--no-worker", is_flag=True, help="Leave the upkeep to `session-authority worker`.")
@click.option(
    "--allow-plaintext",
    is_flag=True,
    help="Serve beyond this machine without TLS, because something in front (a mesh) encrypts.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Ask for no API keys, and serve beyond this machine although calls are not encrypted: anybody "
    "who gets there may do everything.",
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
    # A shell or systemd sets 1,024, for programs that still use select(). Child processes inherit the new limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in _OPEN_FILES:
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft >= wanted or soft == resource.RLIM_INFINITY:
            return
        # Some systems accept less than their hard limit, and macOS calls it infinite.
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
        await signalled.wait()
        click.echo("session-authority: draining")
    click.echo("session-authority: stopped")


def show_development_key(key: str) -> None:
    """Print the development key for the operator. The log never has it."""
    click.echo("session-authority: made a key for development, which may do everything:")
    click.echo(f"export {VARIABLE}={key}")
