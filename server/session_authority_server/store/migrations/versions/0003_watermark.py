"""How far the worker has looked at what is overdue, and indexes to go on from there."""

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
# Each with the one whose reads it serves too, be they of this program or of the one before it.
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
            # Of a partitioned table's, those of the partitions are there already, and are taken as they are.
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
    """Build the indexes while others write; beside this transaction, which goes on holding the migrators' lock.

    Nothing is asked of `sessions` within it: an index that is dropped concurrently waits for all who did.
    """
    op.get_bind().exec_driver_sql(RELEASE_SNAPSHOT)
    with op.get_bind().engine.connect() as connection:
        beside = connection.execution_options(isolation_level="AUTOCOMMIT")
        tables = beside.scalars(_STORED).all()
        if not tables or not beside.scalar(sa.text("SELECT EXISTS (SELECT FROM sessions)")):
            return  # there is nobody yet whom it would keep waiting
        for table in tables:
            for columns, where, _ in _INDEXES:
                name = _name(table, columns)
                valid = beside.scalar(_IS_VALID, {"name": name})
                if valid is False:  # an earlier attempt left half an index
                    beside.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
                if not valid:
                    condition = f" WHERE {where}" if where else ""
                    beside.exec_driver_sql(
                        f"CREATE INDEX CONCURRENTLY {name} ON {table} "
                        f"({', '.join(columns)}){condition}"
                    )
