"""Create the table of the permissions that each API key has used."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Id, Moment

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key_uses",
        sa.Column("key_id", Id(), nullable=False),
        sa.Column("permission", sa.Text(), nullable=False),
        sa.Column("first_used_time", Moment(), nullable=False),
        sa.Column("last_used_time", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "permission", name="api_key_uses_pkey"),
    )


def downgrade() -> None:
    op.drop_table("api_key_uses")
