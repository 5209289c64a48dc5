"""Record the oldest program that a schema supports, and the length of its partitions.

Servers of two releases can therefore run side by side.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("authority", sa.Column("partition_days", sa.SmallInteger()))
    op.add_column(
        "authority",
        sa.Column("oldest_program", sa.Text(), nullable=False, server_default="0001"),
    )


def downgrade() -> None:
    op.drop_column("authority", "oldest_program")
    op.drop_column("authority", "partition_days")
