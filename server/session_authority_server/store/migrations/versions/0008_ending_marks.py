"""Create the table `ending_marks`, with one row for each recent ending that a process acknowledged."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Id, Moment

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ending_marks",
        sa.Column("process_id", Id(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("lost_time", Moment()),
        sa.PrimaryKeyConstraint("process_id", "number", name="ending_marks_pkey"),
    )
    op.create_index(
        "ending_marks_lost_time_idx",
        "ending_marks",
        ["lost_time"],
        sqlite_where=sa.text("lost_time IS NOT NULL"),
        postgresql_where=sa.text("lost_time IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("ending_marks")
