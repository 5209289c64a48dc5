"""Check a database's schema, and migrate it to the version that this program needs."""

import asyncio
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select

from session_authority_server.store.database import Database
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.partitions import (
    Partitioning,
    first_partitions,
    partitioning_statement,
)
from session_authority_server.store.tables import authority

_LOCK_RETRY_SECONDS = 0.1
_AND = " and "
# The privileges that most calls need. If another privilege is missing, only the calls that need it fail.
_PRIVILEGES: dict[str, tuple[str, ...]] = {
    "sessions": ("SELECT", "INSERT", "UPDATE"),
    "users": ("SELECT", "INSERT", "UPDATE"),
    "ending_marks": ("SELECT", "INSERT", "DELETE"),
    "outbox": ("SELECT", "INSERT", "DELETE"),
}


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The version of a database's schema, compared with this program. Versions sort as text.

    Attributes:
        current: The version of the schema; None if the database has no schema.
        wanted: The version that this program was built for.
        known: Whether this program knows the current version, and so can migrate from it.
        oldest_program: The `wanted` version of the oldest program that the current schema supports.
        elsewhere: A PostgreSQL schema that has the tables but is not in search_path.
    """

    current: str | None
    wanted: str
    known: bool
    oldest_program: str | None
    elsewhere: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether the schema has exactly the version that this program was built for."""
        return self.current == self.wanted

    @property
    def serves(self) -> bool:
        """Whether this program can use the schema: it is current, or it is newer and supports this program."""
        if self.known or self.oldest_program is None:
            return self.is_current
        return self.oldest_program <= self.wanted

    @property
    def remedy(self) -> str:
        """The advice to an operator about a schema that this program can't use."""
        if self.elsewhere is not None:
            return (
                f"the schema {self.elsewhere} has such tables, but search_path does not name it; let its owner run: "
                f"ALTER ROLE role SET search_path = {self.elsewhere}"
            )
        if self.known:
            return "run: session-authority migrate"
        if self.current is not None and _AND in self.current:
            return "a schema has only one version: delete the wrong versions from the table alembic_version"
        return "another program or a newer release created it: run that program, or configure another database"


@dataclass(frozen=True, slots=True)
class _Step:
    """The outcome of one migration step.

    Attributes:
        before: The version before the step; None if there was no schema.
        was_last: Whether the schema was up to date already.
    """

    before: str | None
    was_last: bool


async def read_version(database: Database) -> SchemaVersion:
    """Return the version of a database's schema.

    Raises:
        StoreUnavailable: If the store can't be read.
    """
    wanted = _scripts().get_current_head()
    assert wanted is not None
    known = {None, *(script.revision for script in _scripts().walk_revisions())}

    def read(connection: Connection) -> SchemaVersion:
        revisions = MigrationContext.configure(connection).get_current_heads()
        if len(revisions) > 1:
            return SchemaVersion(_AND.join(sorted(revisions)), wanted, False, None)
        current = revisions[0] if revisions else None
        oldest = _oldest_program(connection) if current not in known else None
        elsewhere = _schema_elsewhere(connection) if current is None else None
        return SchemaVersion(current, wanted, current in known, oldest, elsewhere)

    return await database.run_sync(read)


async def find_missing(database: Database) -> str | None:
    """Return the first missing table, column or privilege of a database with the right version, or None.

    The version only says that the migrations ran. A table may have been lost since then, for example in an incomplete
    restore, or this program's role may lack privileges.

    Raises:
        StoreUnavailable: If the store can't be read.
    """
    return await database.run_sync(_find_missing)


def _find_missing(connection: Connection) -> str | None:
    inspector = inspect(connection)
    for table in authority.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            return f"the table {table.name} is missing; restore it from a backup"
        found = {each["name"] for each in inspector.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in found]
        if missing:
            return f"the column {missing[0]} of the table {table.name} is missing"
        if connection.dialect.name == "postgresql":
            for privilege in _PRIVILEGES.get(table.name, ("SELECT",)):
                permitted = select(func.has_table_privilege(table.name, privilege))
                if not connection.execute(permitted).scalar_one():
                    return (
                        f"its role may not {privilege} in the table {table.name}; let the owner run: "
                        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO the role"
                    )
    return None


async def migrate(database: Database, partitioning: Partitioning | None = None) -> str | None:
    """Migrate a database's schema to the version that this program needs, and return the previous version.

    Several processes may migrate at once: one of them migrates, and the others wait for it.

    Each version is a transaction of its own, so its locks are free before the next version builds indexes. A new
    schema is created in one transaction.

    Args:
        database: The database.
        partitioning: How to partition the sessions of a new schema.

    Raises:
        StoreUnavailable: If the store failed.
    """

    def step(connection: Connection) -> _Step | None:
        return _step(connection, database.dialect, partitioning)

    steps: list[_Step] = []
    while not steps or not steps[-1].was_last:
        taken = await database.run_sync(step)
        if taken is None:
            await asyncio.sleep(_LOCK_RETRY_SECONDS)
        else:
            steps.append(taken)
    return steps[0].before


def write_sql(dialect_name: str, output: TextIO, partitioning: Partitioning | None = None) -> None:
    """Write the SQL that creates a new schema. Does not connect to a database."""
    settings = configuration()
    settings.attributes["partitioning"] = partitioning
    settings.attributes["dialect_name"] = dialect_name
    settings.output_buffer = output
    command.upgrade(settings, "head", sql=True)
    if partitioning is not None:
        statements = [*first_partitions(partitioning), partitioning_statement(partitioning)]
        output.writelines(f"{statement};\n\n" for statement in ("BEGIN", *statements, "COMMIT"))


def _step(
    connection: Connection, dialect: Dialect, partitioning: Partitioning | None
) -> _Step | None:
    """Migrate to the next version. Return None at once if another process is migrating.

    The caller waits outside the transaction, because an index that the other process builds concurrently waits for
    this transaction to end.
    """
    if not dialect.try_migration_lock(connection):
        return None
    before = _current_revision(connection)
    if before == _scripts().get_current_head():
        return _Step(before, was_last=True)
    settings = configuration()
    settings.attributes["connection"] = connection
    settings.attributes["partitioning"] = partitioning
    command.upgrade(settings, "head" if before is None else "+1")
    if partitioning is not None and before is None:
        for statement in (*first_partitions(partitioning), partitioning_statement(partitioning)):
            connection.exec_driver_sql(statement)
    return _Step(before, was_last=False)


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _schema_elsewhere(connection: Connection) -> str | None:
    """Return a PostgreSQL schema that has an authority's tables but is not in search_path, or None."""
    if connection.dialect.name != "postgresql":
        return None
    found: str | None = connection.exec_driver_sql(
        "SELECT min(quote_ident(nspname)) FROM pg_namespace n "
        "WHERE nspname != ALL (current_schemas(false)) AND 2 = (SELECT count(*) FROM pg_class c "
        "WHERE c.relnamespace = n.oid AND c.relname IN ('authority', 'alembic_version'))"
    ).scalar_one()
    return found


def _oldest_program(connection: Connection) -> str | None:
    column = authority.c.oldest_program
    inspector = inspect(connection)
    if not inspector.has_table(authority.name):
        return None  # Another program created this schema.
    if column.name not in {each["name"] for each in inspector.get_columns(authority.name)}:
        return None
    return connection.execute(select(column)).scalar_one_or_none()


@cache
def _scripts() -> ScriptDirectory:
    """Return the migrations. Reading all their files takes longer than most calls."""
    return ScriptDirectory.from_config(configuration())


def configuration() -> Config:
    """Return Alembic's configuration with the location of the migrations."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.set_main_option("path_separator", "os")
    return settings
