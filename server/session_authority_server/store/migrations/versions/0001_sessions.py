"""Create the tables for sessions, users, sweeps and repeatable calls."""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from session_authority_server.store.column_types import Address, Attributes, Id, Moment, Span, Words

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The fill factor leaves space on each page for a row's next version, so an activity changes no index (a HOT update).
# Vacuum starts once 2 % of the rows have changed. The default, 20 %, is too late for a huge table.
_POSTGRESQL_STORAGE = {
    "sessions": "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02",
    "users": "fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_analyze_scale_factor = 0.02",
}


def upgrade() -> None:
    in_partitions = context.config.attributes.get("partitioning") is not None
    partitioned: dict[str, Any] = {}
    if in_partitions:
        partitioned["postgresql_partition_by"] = "RANGE (session_id)"
    op.create_table(
        "sessions",
        sa.Column("session_id", Id(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("superseded_hashes", sa.LargeBinary(), nullable=False),
        sa.Column("user_epoch", sa.BigInteger(), nullable=False),
        sa.Column("global_epoch", sa.BigInteger(), nullable=False),
        sa.Column("create_time", Moment(), nullable=False),
        sa.Column("authenticate_time", Moment(), nullable=False),
        sa.Column("last_active_time", Moment(), nullable=False),
        sa.Column("lifetime", Span(), nullable=False),
        sa.Column("expire_time", Moment(), nullable=False),
        sa.Column("idle_timeout", Span()),
        sa.Column("check_time", Moment(), nullable=False),
        sa.Column("end_time", Moment()),
        sa.Column("end_reason", sa.SmallInteger()),
        sa.Column("initiating_entity", sa.SmallInteger()),
        sa.Column("ip_address", Address()),
        sa.Column("last_ip_address", Address()),
        sa.Column("user_agent", sa.Text(), nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.Column("browser_version", sa.Text(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("os_version", sa.Text(), nullable=False),
        sa.Column("device_type", sa.SmallInteger(), nullable=False),
        sa.Column("authentication_methods", Words(), nullable=False),
        sa.Column("attributes", Attributes()),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="sessions_pkey"),
        **partitioned,
    )
    op.create_index("sessions_user_id_end_time_idx", "sessions", ["user_id", "end_time"])
    op.create_index(
        "sessions_check_time_idx",
        "sessions",
        ["check_time"],
        sqlite_where=sa.text("end_time IS NULL"),
        postgresql_where=sa.text("end_time IS NULL"),
    )
    op.create_index(
        "sessions_end_time_idx",
        "sessions",
        ["end_time"],
        sqlite_where=sa.text("end_time IS NOT NULL"),
        postgresql_where=sa.text("end_time IS NOT NULL"),
    )
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("swept_time", Moment()),
        sa.PrimaryKeyConstraint("user_id", name="users_pkey"),
    )
    authority = op.create_table(
        "authority",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("swept_time", Moment()),
        sa.PrimaryKeyConstraint("id", name="authority_pkey"),
    )
    op.bulk_insert(authority, [{"id": 1, "epoch": 0}])
    op.create_table(
        "sweeps",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sweep_time", Moment(), nullable=False),
        sa.Column("initiating_entity", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "epoch", name="sweeps_pkey"),
    )
    op.create_index(
        "sweeps_unsettled_idx",
        "sweeps",
        ["sweep_time"],
        sqlite_where=sa.text("NOT settled"),
        postgresql_where=sa.text("NOT settled"),
    )
    op.create_table(
        "attempts",
        sa.Column("retry_hash", sa.LargeBinary(), nullable=False),
        sa.Column("parameters_hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", Id(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("expire_time", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("retry_hash", name="attempts_pkey"),
    )
    op.create_index("attempts_expire_time_idx", "attempts", ["expire_time"])
    if op.get_context().dialect.name == "postgresql":
        for table, settings in _POSTGRESQL_STORAGE.items():
            if in_partitions and table == "sessions":
                continue  # Only the partitions store rows.
            op.execute(f"ALTER TABLE {table} SET ({settings})")


def downgrade() -> None:
    for table in ("attempts", "sweeps", "authority", "users", "sessions"):
        op.drop_table(table)
