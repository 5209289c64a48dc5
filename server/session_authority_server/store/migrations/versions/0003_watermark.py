"""Add the watermark (the last overdue session that the worker examined) and the indexes that the worker follows."""

import sqlalchemy as sa
from alembic import context, op

from session_authority_server.store.column_types import Id, Moment
from session_authority_server.store.engine.dialect import RELEASE_SNAPSHOT

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UNENDED = "end_time IS NULL"
_BEFORE_ALL = {
    "postgresql": "INSERT INTO upkeep VALUES "
    "(1, '1970-01-01 00:00:00+00', '00000000-0000-0000-0000-000000000000')",
    "sqlite": "INSERT INTO upkeep VALUES (1, 0, zeroblob(16))",
}
# Columns, condition, and the old index that is dropped. The new index also serves the queries of the previous release.
_INDEXES = (
    (["user_id", "end_time", "expire_time"], None, "sessions_user_id_end_time_idx"),
    (["check_time", "session_id"], _UNENDED, "sessions_check_time_idx"),
)
_STORED = sa.text(
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND (c.oid = to_regclass('sessions') "
    "OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('sessions')))"
)
_IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def upgrade() -> None:
    if not context.is_offline_mode() and op.get_context().dialect.name == "postgresql":
        _build_concurrently()
    for columns, where, replaced in _INDEXES:
        op.create_index(
            _name("sessions", columns),
            "sessions",
            columns,
            # On a partitioned table, this adopts the indexes of the partitions, which exist already.
            if_not_exists=True,
            sqlite_where=sa.text(where) if where else None,
            postgresql_where=sa.text(where) if where else None,
        )
        op.drop_index(replaced, "sessions")
    op.create_table(
        "upkeep",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("expired_until", Moment(), nullable=False),
        sa.Column("expired_id", Id(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="upkeep_pkey"),
    )
    op.execute(_BEFORE_ALL[op.get_context().dialect.name])


def downgrade() -> None:
    op.drop_table("upkeep")
    for columns, where, replaced in _INDEXES:
        op.create_index(
            replaced,
            "sessions",
            [column for column in columns if column not in {"expire_time", "session_id"}],
            sqlite_where=sa.text(where) if where else None,
            postgresql_where=sa.text(where) if where else None,
        )
        op.drop_index(_name("sessions", columns), "sessions")


def _name(table: str, columns: list[str]) -> str:
    return f"{table}_{'_'.join(columns)}_idx"


def _build_concurrently() -> None:
    """Build the indexes without blocking writes, on a second connection.

    The migration's transaction keeps the migration lock. It must not read `sessions`, because dropping an index
    concurrently waits for every transaction that did.
    """
    op.get_bind().exec_driver_sql(RELEASE_SNAPSHOT)
    with op.get_bind().engine.connect() as connection:
        second = connection.execution_options(isolation_level="AUTOCOMMIT")
        tables = second.scalars(_STORED).all()
        if not tables or not second.scalar(sa.text("SELECT EXISTS (SELECT FROM sessions)")):
            return  # On an empty table, `upgrade` builds the indexes at once.
        for table in tables:
            for columns, where, _ in _INDEXES:
                name = _name(table, columns)
                valid = second.scalar(_IS_VALID, {"name": name})
                if valid is False:  # An earlier attempt left an incomplete index.
                    second.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
                if not valid:
                    condition = f" WHERE {where}" if where else ""
                    second.exec_driver_sql(
                        f"CREATE INDEX CONCURRENTLY {name} ON {table} "
                        f"({', '.join(columns)}){condition}"
                    )
