"""Add the indexes that find the live sessions of an identity.

A revision of its own, because an index can be built concurrently only after its columns are committed.
"""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.migrations.concurrent_indexes import (
    build_concurrently,
    index_name,
)

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_INDEXES = [
    ([column], f"{column} IS NOT NULL AND end_time IS NULL")
    for column in ("subject_hash", "sid_hash")
]


def upgrade() -> None:
    build_concurrently("sessions", _INDEXES)
    for columns, where in _INDEXES:
        op.create_index(
            index_name("sessions", columns),
            "sessions",
            columns,
            if_not_exists=True,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )


def downgrade() -> None:
    for columns, _ in _INDEXES:
        op.drop_index(index_name("sessions", columns), "sessions")
