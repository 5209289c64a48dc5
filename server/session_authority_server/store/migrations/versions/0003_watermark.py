"""Add the watermark (the last overdue session that the worker examined) and the indexes that the worker follows."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Id, Moment
from session_authority_server.store.migrations.concurrent_indexes import (
    build_concurrently,
    index_name,
)

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


def upgrade() -> None:
    build_concurrently("sessions", [(columns, where) for columns, where, _ in _INDEXES])
    for columns, where, replaced in _INDEXES:
        op.create_index(
            index_name("sessions", columns),
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
        op.drop_index(index_name("sessions", columns), "sessions")
