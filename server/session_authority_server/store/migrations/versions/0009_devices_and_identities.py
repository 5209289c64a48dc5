"""Add whether a session's device is new, its label, its identity, and the table of revoked identities."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Moment

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sessions", sa.Column("new_device", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("sessions", sa.Column("label", sa.Text()))
    op.add_column("sessions", sa.Column("subject_hash", sa.LargeBinary()))
    op.add_column("sessions", sa.Column("sid_hash", sa.LargeBinary()))
    op.create_table(
        "revoked_identities",
        sa.Column("identity_hash", sa.LargeBinary(), nullable=False),
        sa.Column("revoke_time", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("identity_hash", name="revoked_identities_pkey"),
    )
    op.create_index("revoked_identities_revoke_time_idx", "revoked_identities", ["revoke_time"])


def downgrade() -> None:
    op.drop_table("revoked_identities")
    for column in ("sid_hash", "subject_hash", "label", "new_device"):
        op.drop_column("sessions", column)
