import os
from pathlib import Path

import click

from session_authority_server.app.database import claimed
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.store.backup import BackupFailed, copy, publish
from session_authority_server.store.database import Database
from session_authority_server.store.schema import find_missing, read_version


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.pass_context
def backup(context: click.Context, path: Path, database_url: str | None) -> None:
    """Copy the SQLite database to the new file PATH while servers use it, and check the copy.

    For PostgreSQL, use its own tools (docs/operate/restore.md).
    """
    settings = settings_of(context, database_url=database_url)
    if (file := settings.sqlite_path) is None:
        raise click.ClickException(
            "this command copies SQLite files. Back up PostgreSQL with pg_basebackup and archived WAL, or with "
            "pgBackRest: see docs/operate/restore.md"
        )
    if os.path.lexists(path):
        raise click.ClickException(f"{path} exists already; give another name, or remove the file")
    try:
        run(_back_up(settings, file, path))
    except BackupFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"session-authority: {path} is a complete backup ({path.stat().st_size:,} bytes)")


async def _back_up(settings: Settings, file: Path, path: Path) -> None:
    with claimed(settings):
        copied = copy(file, path)
    database = Database.sqlite(copied, read_only=True)
    try:
        version = await read_version(database)
        missing = await find_missing(database) if version.serves else version.remedy
    finally:
        await database.close()
    if missing is not None:
        copied.unlink()
        raise BackupFailed(f"{file} is not a complete database: {missing}")
    publish(copied, path)
