"""Add the actor of a session, and the table of erased users."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# 32 bytes. On PostgreSQL, 244 of their 256 bits are random.
_KEYS = {
    "postgresql": "UPDATE authority SET erasure_key = "
    "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())",
    "sqlite": "UPDATE authority SET erasure_key = randomblob(32)",
}


def upgrade() -> None:
    op.add_column("sessions", sa.Column("actor_id", sa.Text()))
    op.add_column("authority", sa.Column("erasure_key", sa.LargeBinary()))
    op.execute(_KEYS[op.get_context().dialect.name])
    op.create_table(
        "erasures",
        sa.Column("user_hash", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("erase_time", Moment(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.PrimaryKeyConstraint("user_hash", name="erasures_pkey"),
    )


def downgrade() -> None:
    op.drop_table("erasures")
    op.drop_column("authority", "erasure_key")
    op.drop_column("sessions", "actor_id")
