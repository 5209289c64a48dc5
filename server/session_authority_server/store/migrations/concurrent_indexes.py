"""Build indexes on a PostgreSQL table in use without blocking its writers. Migrations call this."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from alembic import context, op

from session_authority_server.store.engine.dialect import RELEASE_SNAPSHOT

_STORED = sa.text(
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND (c.oid = to_regclass(:name) "
    "OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(:name)))"
)
_IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def index_name(table: str, columns: Sequence[str]) -> str:
    """Return the name that PostgreSQL itself would give the index, so that new partitions use the same name."""
    return f"{table}_{'_'.join(columns)}_idx"


def build_concurrently(table: str, indexes: Iterable[tuple[Sequence[str], str | None]]) -> None:
    """Build indexes of a table, or of its partitions, on a second connection. Does nothing on other engines.

    The migration must then create the same indexes with `if_not_exists`. On a partitioned table, that adopts the
    indexes of the partitions. On an empty table, it builds the indexes.

    The migration's transaction keeps the migration lock. It must not read the table before this call, because building
    or dropping an index concurrently waits for every transaction that did.

    Args:
        table: The table.
        indexes: The columns of each index, and its condition.
    """
    if context.is_offline_mode() or op.get_context().dialect.name != "postgresql":
        return
    op.get_bind().exec_driver_sql(RELEASE_SNAPSHOT)
    with op.get_bind().engine.connect() as connection:
        second = connection.execution_options(isolation_level="AUTOCOMMIT")
        tables = second.scalars(_STORED, {"name": table}).all()
        any_row = sa.exists().select_from(sa.table(table)).select()
        if not tables or not second.scalar(any_row):
            return
        for stored in tables:
            for columns, where in indexes:
                _build(second, stored, columns, where)


def _build(
    connection: sa.Connection, table: str, columns: Sequence[str], where: str | None
) -> None:
    name = index_name(table, columns)
    valid = connection.scalar(_IS_VALID, {"name": name})
    if valid is False:  # An earlier attempt left an incomplete index.
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
    if not valid:
        condition = f" WHERE {where}" if where else ""
        connection.exec_driver_sql(
            f"CREATE INDEX CONCURRENTLY {name} ON {table} ({', '.join(columns)}){condition}"
        )
