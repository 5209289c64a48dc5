import sys
from pathlib import Path
from typing import NoReturn

import click

from session_authority_server.cli.check import check
from session_authority_server.cli.demo import demo
from session_authority_server.cli.keys import keys
from session_authority_server.cli.migrate import migrate
from session_authority_server.cli.revoke import revoke
from session_authority_server.cli.serve import serve
from session_authority_server.cli.server_process import server_process
from session_authority_server.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


for command in (serve, worker, migrate, keys, revoke, check, demo, server_process):
    commands.add_command(command)


def main() -> NoReturn:
    """Run the command line."""
    sys.exit(commands())
