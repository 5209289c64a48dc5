import click

from session_authority_server.cli.running import run, settings_of
from session_authority_server.config import Settings
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.store import schema
from session_authority_server.store.database import Database


@click.command()
@click.option("--database-url", help="Where sessions are kept, as sqlite:///path.")
@click.pass_context
def migrate(context: click.Context, database_url: str | None) -> None:
    """Bring the database's schema to this program's version."""
    settings = settings_of(context, database_url=database_url)
    run(_migrate(settings))


async def _migrate(settings: Settings) -> None:
    path = settings.sqlite_path
    if not path.parent.is_dir():
        raise click.ClickException(f"there is no folder {path.parent} for the database")
    database = Database.sqlite(path)
    try:
        before = await schema.read_version(database)
        if before.is_current:
            click.echo(f"{path}: the schema is {before.wanted} already")
            return
        if not before.known:
            raise click.ClickException(f"the schema of {path} is {before.current}; {before.remedy}")
        await schema.migrate(database)
        click.echo(f"{path}: the schema went from {before.current or 'none'} to {before.wanted}")
    except StoreUnavailable as error:
        reason = getattr(error.__cause__, "orig", error.__cause__)
        raise click.ClickException(f"the database {path} can't be used: {reason}") from None
    finally:
        await database.close()
