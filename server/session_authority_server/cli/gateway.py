from importlib import import_module
from pathlib import Path
from typing import Any

import click

from session_authority_server.app.process import (
    allow_many_connections,
    catch_signals,
    notify,
    tune_memory,
)
from session_authority_server.app.running import read_log_level, reload
from session_authority_server.cli.shared import run
from session_authority_server.config import ConfigurationError
from session_authority_server.observability import logs


@click.command()
@click.option(
    "--listen", help="The address to serve HTTP on, as host:port. Port 0 picks a free port."
)
@click.option("--grpc-listen", help="The address to serve Envoy on over gRPC, as host:port.")
@click.option("--json-listen", help="The address to serve the JSON API on, as host:port.")
@click.option(
    "--allow-plaintext",
    is_flag=True,
    help="Serve other machines without TLS, because a mesh or proxy encrypts.",
)
@click.pass_context
def gateway(context: click.Context, /, allow_plaintext: bool, **addresses: str | None) -> None:
    """Answer proxies whether a request has a live session, until SIGTERM. Then drain."""
    settings = _settings(context.obj, **addresses)
    logs.configure(settings.log_level, settings.log_format)
    allow_many_connections()
    run(_serve(settings, context.obj, allow_plaintext=allow_plaintext))


def _settings(config_file: Path | None, **given: Any) -> Any:
    try:
        return _module("settings").load_gateway_settings(config_file, **given)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


def _module(name: str) -> Any:
    """Return a module of the gateway, which needs more packages than the server."""
    try:
        return import_module(f"session_authority_gateway.{name}")
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the module {error.name!r} is not installed; install session-authority with its extra `gateway`"
        ) from None


async def _serve(settings: Any, config_file: Path | None, *, allow_plaintext: bool) -> None:
    async with _module("serving").serving(settings, allow_plaintext=allow_plaintext) as running:
        tune_memory()
        load = _module("settings").load_gateway_settings
        signalled = catch_signals(
            lambda: reload(read_log_level(config_file, load), running.certificates)
        )
        others = {"gRPC": running.grpc_address, "JSON": running.json_address}
        also = "".join(f" and {address} ({name})" for name, address in others.items() if address)
        click.echo(f"session-authority: gateway on {running.address}{also}")
        notify("READY=1")
        await signalled.wait()
        notify("STOPPING=1")
        click.echo("session-authority: draining")
    click.echo("session-authority: stopped")
