"""Bringing a database's schema to the version that this code works with."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from session_authority_server.store.database import Database


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """Where a database's schema stands.

    Attributes:
        current: The version it has; None where it has none at all.
        wanted: The version that this code works with.
        known: Whether this code knows the current one, and so the way from there.
    """

    current: str | None
    wanted: str
    known: bool

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to migrate."""
        return self.current == self.wanted

    @property
    def remedy(self) -> str:
        """What an operator can do about a schema that is not the wanted one."""
        if self.known:
            return "run: session-authority migrate"
        return "another program or a newer release made it: run that one, or name another database"


async def read_version(database: Database) -> SchemaVersion:
    """Return where a database's schema stands."""
    current = await database.run_sync(_current_revision)
    scripts = ScriptDirectory.from_config(_configuration())
    wanted = scripts.get_current_head()
    assert wanted is not None
    known = {None, *(script.revision for script in scripts.walk_revisions())}
    return SchemaVersion(current, wanted, current in known)


async def migrate(database: Database) -> None:
    """Bring a database's schema to the version that this code works with."""
    await database.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    configuration.set_main_option("path_separator", "os")
    return configuration
