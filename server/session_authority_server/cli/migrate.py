import sys

import click

from session_authority_server.app.database import (
    cannot_use,
    check_tables_and_grants,
    claimed,
    database_of,
)
from session_authority_server.app.process import CannotStart
from session_authority_server.cli.shared import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.store import schema
from session_authority_server.store.database import Database
from session_authority_server.store.partitions import Partitioning


@click.command()
@click.option("--database-url", help="Where sessions are kept.")
@click.option(
    "--check",
    is_flag=True,
    help="Only say whether the schema is this version and whole; exit 1 if not.",
)
@click.option(
    "--sql", is_flag=True, help="Only print the SQL that makes the schema; connects nowhere."
)
@click.option(
    "--partition-days",
    type=click.IntRange(1, 90),
    help="Keep sessions in partitions of so many days of sign-ins: for PostgreSQL, and only when the "
    "schema is made. docs/operate/scale.md says when that is worth it.",
)
@click.pass_context
def migrate(
    context: click.Context,
    database_url: str | None,
    check: bool,
    sql: bool,
    partition_days: int | None,
) -> None:
    """Bring the database's schema to this program's version.

    Any number may run at once: one does it.
    """
    partitioning = (
        None if partition_days is None else Partitioning(partition_days, SystemClock().now())
    )
    if check and sql:
        raise click.UsageError("give one of --check and --sql")
    settings = settings_of(context, database_url=database_url)
    if partitioning and settings.sqlite_path is not None:
        raise click.UsageError("--partition-days is for PostgreSQL; SQLite has no partitions")
    if sql:
        engine = "postgresql" if settings.sqlite_path is None else "sqlite"
        schema.write_sql(engine, sys.stdout, partitioning)
    else:
        run(_migrate(settings, partitioning, only_check=check))


async def _migrate(
    settings: Settings, partitioning: Partitioning | None, *, only_check: bool
) -> None:
    with claimed(settings, make=not only_check) as file:
        database = database_of(settings, file=file)
        try:
            await _migrate_database(settings, database, partitioning, only_check=only_check)
        except StoreUnavailable as error:
            raise cannot_use(settings, error) from None
        finally:
            await database.close()


async def _migrate_database(
    settings: Settings,
    database: Database,
    partitioning: Partitioning | None,
    *,
    only_check: bool,
) -> None:
    name = settings.database
    version = await schema.read_version(database)
    if version.serves and not version.is_current:
        await check_tables_and_grants(settings, database)
        click.echo(
            f"{name}: the schema is {version.current}, newer than this program's "
            f"{version.wanted}, which it still serves"
        )
        return
    if not version.is_current and (only_check or not version.known):
        raise CannotStart(
            f"the schema of {name} is {version.current or 'missing'}, and this program works with "
            f"{version.wanted}; {version.remedy}"
        )
    if partitioning is not None and version.current is not None:
        raise CannotStart(
            f"{name} has a schema already, and whether it has partitions was chosen with it; "
            "to change that, make another database and move the rows"
        )
    before = version.current if only_check else await schema.migrate(database, partitioning)
    if only_check:
        await check_tables_and_grants(settings, database)
    if before == version.wanted:
        click.echo(f"{name}: the schema is {before} already")
    else:
        click.echo(f"{name}: the schema went from {before or 'none'} to {version.wanted}")
