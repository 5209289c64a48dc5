"""Definitions of the tables for SQLAlchemy. The code in `migrations/` creates them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    and_,
    false,
    text,
)

from session_authority_server.domain.device import DeviceType
from session_authority_server.domain.receiver import ReceiverKind, ReceiverState
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

EVERYBODY = ""  # The user id of a sweep of all users. No user has this id.

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
    # The length of the absolute lifetime, which restarts at a re-authentication.
    Column("lifetime", Span, nullable=False),
    Column("expire_time", Moment, nullable=False),
    Column("idle_timeout", Span),
    # Never later than the first moment at which the session could be overdue. The worker moves it forward if the
    # session is live then. Recording an activity leaves it alone, and so changes no indexed column.
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
    Column("new_device", Boolean, nullable=False, server_default=false()),
    Column("label", Text),
    # Hashes of the identity at the identity provider: of its issuer and subject, and of its issuer and session id.
    Column("subject_hash", LargeBinary),
    Column("sid_hash", LargeBinary),
)

# Finds a user's sessions: the live ones (no end_time, future expire_time), the expired ones, and the history by time.
Index(None, sessions.c.user_id, sessions.c.end_time, sessions.c.expire_time)
# Finds the next overdue sessions.
Index(
    None,
    sessions.c.check_time,
    sessions.c.session_id,
    sqlite_where=sessions.c.end_time.is_(None),
    postgresql_where=sessions.c.end_time.is_(None),
)
# Finds the next sessions to purge.
Index(
    "sessions_end_time_idx",
    sessions.c.end_time,
    sqlite_where=sessions.c.end_time.is_not(None),
    postgresql_where=sessions.c.end_time.is_not(None),
)

# Find the live sessions of an identity.
for _hash in (sessions.c.subject_hash, sessions.c.sid_hash):
    _unended = and_(_hash.is_not(None), sessions.c.end_time.is_(None))
    Index(None, _hash, sqlite_where=_unended, postgresql_where=_unended)

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("swept_time", Moment),
)

# One row with the state that all users share.
authority = Table(
    "authority",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("swept_time", Moment),
    # The number of days whose sign-ins one partition of `sessions` holds. Null without partitions.
    Column("partition_days", SmallInteger),
    # The schema version of the oldest program that this schema supports.
    Column("oldest_program", Text, nullable=False, server_default="0001"),
    # The key that hashes the ids of erased users.
    Column("erasure_key", LargeBinary),
)

# One row that says how far the worker has examined the overdue sessions: up to the watermark. The worker examines only
# sessions ahead of it. A session behind it without a recorded ending has expired or appeared there late.
upkeep = Table(
    "upkeep",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The watermark: the last session that the worker examined. `expired_until` is its `check_time`, and `expired_id` is
    # its `session_id`.
    Column("expired_until", Moment, nullable=False),
    Column("expired_id", Id, nullable=False),
    # The latest time at which the clock was known to be right. Updated at most once a minute.
    Column("clock_time", Moment),
)

# One row for each sweep of a user or of all users. The sweep ended all sessions of earlier epochs.
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

# One row for each erased user. The same user id may sign in again later. Its row in `users` then takes its epoch from
# this row, so that no session from before the erasure becomes live. A sign-in that began before `erase_time` is
# refused.
erasures = Table(
    "erasures",
    metadata,
    Column("user_hash", LargeBinary, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("erase_time", Moment, nullable=False),
    # The id, until all rows of the user are deleted; then null.
    Column("user_id", Text),
)

# One row for each identity whose sessions were revoked, until no sign-in can have begun before that.
revoked_identities = Table(
    "revoked_identities",
    metadata,
    # As in `sessions.subject_hash` or `sessions.sid_hash`.
    Column("identity_hash", LargeBinary, primary_key=True),
    Column("revoke_time", Moment, nullable=False),
)
Index(None, revoked_identities.c.revoke_time)

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

# One row for each permission that a key has used since this table was created.
api_key_uses = Table(
    "api_key_uses",
    metadata,
    Column("key_id", Id, primary_key=True),
    Column("permission", Text, primary_key=True),
    Column("first_used_time", Moment, nullable=False),
    Column("last_used_time", Moment, nullable=False),
)

# One row for each of the latest endings that a process acknowledged. The process also writes the row's number to the
# state directory. If a number is there but its row is missing, the database has gone back in time.
ending_marks = Table(
    "ending_marks",
    metadata,
    Column("process_id", Id, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # When a server found that the row was missing; null once an operator has resolved that.
    Column("lost_time", Moment),
)
Index(
    None,
    ending_marks.c.lost_time,
    sqlite_where=ending_marks.c.lost_time.is_not(None),
    postgresql_where=ending_marks.c.lost_time.is_not(None),
)

# One row for each program that gets events.
receivers = Table(
    "receivers",
    metadata,
    Column("receiver_id", Id, primary_key=True),
    # Null once the receiver is removed, so that another one can take the name.
    Column("name", Text),
    Column("url", Text, nullable=False),
    Column("event_types", Words, nullable=False),
    Column("kind", Code(ReceiverKind), nullable=False),
    Column("state", Code(ReceiverState), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("rotate_time", Moment),
    Column("create_time", Moment, nullable=False),
    # Events that are written earlier are not for this receiver. By this time, every server knows it.
    Column("start_time", Moment, nullable=False),
    Column("remove_time", Moment),
    Column("last_success_time", Moment),
    Column("last_failure_time", Moment),
    Column("failing_since", Moment),
    Column("problem", Text, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    # The worker that delivers the receiver's events, and until when if it does not renew that.
    Column("lease_holder", Id),
    Column("lease_until", Moment),
    # The rest is null except for streams of security events. The name of the API keys that own the stream:
    Column("owner", Text),
    Column("sealed_authorization", LargeBinary),
    # URIs, with a space between them. Null if the receiver asked for none in particular.
    Column("events_requested", Text),
    Column("description", Text),
    Column("status_reason", Text),
    Column("verify_time", Moment),
)
Index(None, receivers.c.name, unique=True)

# One row for each event and receiver, until a while after the delivery.
outbox = Table(
    "outbox",
    metadata,
    # The order of events. A transaction that writes events of a user has locked the user, so the events of a user are
    # committed in this order.
    Column(
        "sequence",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
    ),
    # The same for all receivers.
    Column("event_id", Id, nullable=False),
    Column("receiver_id", Id, nullable=False),
    # Empty for everybody; null for a test.
    Column("user_id", Text),
    Column("event_type", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("due_time", Moment, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_failure_time", Moment),
    # Null while the event waits.
    Column("delivered_time", Moment),
    # Sequences of deleted rows must not come again.
    sqlite_autoincrement=True,
)
_IS_PENDING = outbox.c.delivered_time.is_(None)
_IS_DELIVERED = outbox.c.delivered_time.is_not(None)
# Finds the next events to deliver.
Index(
    None,
    outbox.c.receiver_id,
    outbox.c.due_time,
    outbox.c.sequence,
    sqlite_where=_IS_PENDING,
    postgresql_where=_IS_PENDING,
)
# Finds the oldest events that wait.
Index(
    None,
    outbox.c.receiver_id,
    outbox.c.sequence,
    sqlite_where=_IS_PENDING,
    postgresql_where=_IS_PENDING,
)
# Finds the events of a user: those that wait for a receiver in their order, and all of them for an erasure.
Index(
    None,
    outbox.c.user_id,
    outbox.c.receiver_id,
    outbox.c.delivered_time,
    outbox.c.sequence,
)
# Finds the next events to purge.
Index(
    None,
    outbox.c.delivered_time,
    sqlite_where=_IS_DELIVERED,
    postgresql_where=_IS_DELIVERED,
)
