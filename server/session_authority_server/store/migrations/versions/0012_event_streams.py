"""Add the columns of streams of security events to the table `receivers`."""

import sqlalchemy as sa
from alembic import op

from session_authority_server.store.column_types import Moment

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("owner", sa.Text),
    ("sealed_authorization", sa.LargeBinary),
    ("events_requested", sa.Text),
    ("description", sa.Text),
    ("status_reason", sa.Text),
    ("verify_time", Moment),
)


def upgrade() -> None:
    for name, kind in _COLUMNS:
        op.add_column("receivers", sa.Column(name, kind()))


def downgrade() -> None:
    for name, _ in _COLUMNS:
        op.drop_column("receivers", name)
