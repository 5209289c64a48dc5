"""Create the tables `receivers` and `outbox`, with the events that wait for receivers."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Id, Moment, Words

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_PENDING, _DELIVERED = "delivered_time IS NULL", "delivered_time IS NOT NULL"
_INDEXES = (
    (["receiver_id", "due_time", "sequence"], _PENDING),
    (["receiver_id", "sequence"], _PENDING),
    (["user_id", "receiver_id", "delivered_time", "sequence"], None),
    (["delivered_time"], _DELIVERED),
)


def upgrade() -> None:
    op.create_table(
        "receivers",
        sa.Column("receiver_id", Id(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", Words(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("rotate_time", Moment()),
        sa.Column("create_time", Moment(), nullable=False),
        sa.Column("start_time", Moment(), nullable=False),
        sa.Column("remove_time", Moment()),
        sa.Column("last_success_time", Moment()),
        sa.Column("last_failure_time", Moment()),
        sa.Column("failing_since", Moment()),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("lease_holder", Id()),
        sa.Column("lease_until", Moment()),
        sa.PrimaryKeyConstraint("receiver_id", name="receivers_pkey"),
    )
    op.create_index("receivers_name_idx", "receivers", ["name"], unique=True)
    op.create_table(
        "outbox",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            # Unlike a serial's sequence, an identity needs no grant of its own. SQLite ignores it.
            sa.Identity(),
            nullable=False,
        ),
        sa.Column("event_id", Id(), nullable=False),
        sa.Column("receiver_id", Id(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("create_time", Moment(), nullable=False),
        sa.Column("due_time", Moment(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failure_time", Moment()),
        sa.Column("delivered_time", Moment()),
        sa.PrimaryKeyConstraint("sequence", name="outbox_pkey"),
        sqlite_autoincrement=True,
    )
    for columns, where in _INDEXES:
        condition = None if where is None else sa.text(where)
        op.create_index(
            f"outbox_{'_'.join(columns)}_idx",
            "outbox",
            columns,
            sqlite_where=condition,
            postgresql_where=condition,
        )


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("receivers")
