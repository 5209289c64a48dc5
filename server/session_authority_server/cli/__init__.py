import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

_NAMES = (
    "serve",
    "worker",
    "gateway",
    "migrate",
    "keys",
    "receivers",
    "revoke",
    "backup",
    "fence",
    "check",
    "health",
    "repair-clock",
    "demo",
)
# Commands that reload at SIGHUP.
_RELOADING = ("serve", "worker", "gateway")


class _Commands(click.Group):
    """Imports each command only when it runs, so that no command loads the modules of another."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=_NAMES, ctx=ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NAMES:
            return None
        if cmd_name in _RELOADING:
            # Until the command catches signals, a SIGHUP would end it. So keep the signal pending.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="session-authority")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar="SESSION_AUTHORITY_CONFIG",
    help="A TOML file with settings.",
)
@click.pass_context
def commands(context: click.Context, config_file: Path | None) -> None:
    """Session Authority: is this login still good?"""
    context.obj = config_file


def main() -> NoReturn:
    """Run the command line."""
    sys.exit(commands())
