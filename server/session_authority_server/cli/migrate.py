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
@click.option("--database-url", help="The URL of the database with the sessions.")
@click.option(
    "--check",
    is_flag=True,
    help="Only check that the schema has this version and is complete. Exit with 1 if not.",
)
@click.option(
    "--sql",
    is_flag=True,
    help="Only print the SQL that creates the schema, without connecting to a database.",
)
@click.option(
    "--partition-days",
    type=click.IntRange(1, 90),
    help="Partition sessions by this number of days of sign-ins. PostgreSQL only, and only when the schema is "
    "created. See docs/operate/scale.md for when to use it.",
)
@click.pass_context
def migrate(
    context: click.Context,
    database_url: str | None,
    check: bool,
    sql: bool,
    partition_days: int | None,
) -> None:
    """Migrate the database's schema to this program's version.

    If several processes run this at once, one of them migrates and the others wait.
    """
    partitioning = (
        None if partition_days is None else Partitioning(partition_days, SystemClock().now())
    )
    if check and sql:
        raise click.UsageError("--check and --sql can't be used together; give one of them")
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
            f"{version.wanted}, but still serves this program"
        )
        return
    if not version.is_current and (only_check or not version.known):
        raise CannotStart(
            f"the schema of {name} is {version.current or 'missing'}, and this program needs "
            f"{version.wanted}; {version.remedy}"
        )
    if partitioning is not None and version.current is not None:
        raise CannotStart(
            f"{name} already has a schema, and partitions can only be chosen when a schema is created; "
            "leave out --partition-days, or create another database and move the rows there"
        )
    before = version.current if only_check else await schema.migrate(database, partitioning)
    if only_check:
        await check_tables_and_grants(settings, database)
    if before == version.wanted:
        click.echo(f"{name}: the schema is already {before}")
    else:
        click.echo(f"{name}: the schema went from {before or 'none'} to {version.wanted}")
