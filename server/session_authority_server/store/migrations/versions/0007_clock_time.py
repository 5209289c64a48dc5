"""Add the latest time at which the clock was known to be right."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Moment

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NOTE_NOW = {
    "sqlite": "UPDATE upkeep SET clock_time = CAST(strftime('%s', 'now') AS INTEGER) * 1000000",
    "postgresql": "UPDATE upkeep SET clock_time = clock_timestamp()",
}


def upgrade() -> None:
    op.add_column("upkeep", sa.Column("clock_time", Moment()))
    op.execute(_NOTE_NOW[op.get_context().dialect.name])


def downgrade() -> None:
    op.drop_column("upkeep", "clock_time")
