"""The tables, in the names that every statement uses. `migrations/` makes them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

from session_authority_server.domain.device import DeviceType
from session_authority_server.domain.session import EndReason, InitiatingEntity
from session_authority_server.store.column_types import (
    Address,
    Attributes,
    Code,
    Id,
    Moment,
    Span,
    Words,
)

EVERYBODY = ""  # the user id of a sweep that covers all users; no user has it

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

_END_REASON = Code(EndReason)
_INITIATING_ENTITY = Code(InitiatingEntity)
_DEVICE_TYPE = Code(DeviceType)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Id, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("superseded_hashes", LargeBinary, nullable=False),
    Column("user_epoch", BigInteger, nullable=False),
    Column("global_epoch", BigInteger, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("authenticate_time", Moment, nullable=False),
    Column("last_active_time", Moment, nullable=False),
    # How long the absolute lifetime is, each time that it begins.
    Column("lifetime", Span, nullable=False),
    Column("expire_time", Moment, nullable=False),
    Column("idle_timeout", Span),
    # No later than the first moment at which the session could be overdue. It is moved on when the session
    # is found alive then, and not at each activity, which therefore changes no indexed column.
    Column("check_time", Moment, nullable=False),
    Column("end_time", Moment),
    Column("end_reason", _END_REASON),
    Column("initiating_entity", _INITIATING_ENTITY),
    Column("ip_address", Address),
    Column("last_ip_address", Address),
    Column("user_agent", Text, nullable=False),
    Column("browser", Text, nullable=False),
    Column("browser_version", Text, nullable=False),
    Column("os", Text, nullable=False),
    Column("os_version", Text, nullable=False),
    Column("device_type", _DEVICE_TYPE, nullable=False),
    Column("authentication_methods", Words, nullable=False),
    Column("attributes", Attributes),
    Column("created_by", Text, nullable=False),
    Column("actor_id", Text),
)

# A user's live sessions (no end_time, and yet to expire), those that expired, and a user's history by time.
Index(None, sessions.c.user_id, sessions.c.end_time, sessions.c.expire_time)
# The next overdue.
Index(
    None,
    sessions.c.check_time,
    sessions.c.session_id,
    sqlite_where=sessions.c.end_time.is_(None),
    postgresql_where=sessions.c.end_time.is_(None),
)
# The next to purge.
Index(
    "sessions_end_time_idx",
    sessions.c.end_time,
    sqlite_where=sessions.c.end_time.is_not(None),
    postgresql_where=sessions.c.end_time.is_not(None),
)

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("swept_time", Moment),
)

# One row: what is true of everybody.
authority = Table(
    "authority",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("swept_time", Moment),
    # For how many days of sign-ins a partition of `sessions` is; null where it has none.
    Column("partition_days", SmallInteger),
    # The version of the schema that the oldest program wants which this schema still serves.
    Column("oldest_program", Text, nullable=False, server_default="0001"),
    # What the ids of erased users are hashed with.
    Column("erasure_key", LargeBinary),
)

# One row: how far the worker has looked at overdue sessions. What it looked at and left as it was had expired.
upkeep = Table(
    "upkeep",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The check_time and session_id of the last session that it looked at.
    Column("expired_until", Moment, nullable=False),
    Column("expired_id", Id, nullable=False),
    # Until when the clock was known to be right, to within a minute.
    Column("clock_time", Moment),
)

# One row an "end everything": it ended the sessions whose epoch was one less, or lower.
sweeps = Table(
    "sweeps",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("sweep_time", Moment, nullable=False),
    Column("initiating_entity", _INITIATING_ENTITY, nullable=False),
    Column("reason", Text, nullable=False),
    Column("settled", Boolean, nullable=False),
)
Index(
    "sweeps_unsettled_idx",
    sweeps.c.sweep_time,
    sqlite_where=text("NOT settled"),
    postgresql_where=text("NOT settled"),
)

# One row an erased user: where the epochs go on, and before when no sign-in may have begun, if there is ever
# again a user of that id.
erasures = Table(
    "erasures",
    metadata,
    Column("user_hash", LargeBinary, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("erase_time", Moment, nullable=False),
    # Whose rows are yet to be deleted; null once they are.
    Column("user_id", Text),
)

attempts = Table(
    "attempts",
    metadata,
    Column("retry_hash", LargeBinary, primary_key=True),
    Column("parameters_hash", LargeBinary, nullable=False),
    Column("session_id", Id, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("expire_time", Moment, nullable=False),
)
Index(None, attempts.c.expire_time)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("permissions", Words, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("expire_time", Moment),
    Column("revoke_time", Moment),
    Column("last_used_time", Moment),
)

# One row a permission that a key has used since there is this table.
api_key_uses = Table(
    "api_key_uses",
    metadata,
    Column("key_id", Id, primary_key=True),
    Column("permission", Text, primary_key=True),
    Column("first_used_time", Moment, nullable=False),
    Column("last_used_time", Moment, nullable=False),
)
