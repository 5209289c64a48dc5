"""Create the table of API keys."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Id, Moment, Words

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", Id(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("permissions", Words(), nullable=False),
        sa.Column("create_time", Moment(), nullable=False),
        sa.Column("expire_time", Moment()),
        sa.Column("revoke_time", Moment()),
        sa.Column("last_used_time", Moment()),
        sa.PrimaryKeyConstraint("key_id", name="api_keys_pkey"),
    )


def downgrade() -> None:
    op.drop_table("api_keys")
