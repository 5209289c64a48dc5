"""The Prometheus metrics. Labels come from small sets, and never contain data of a user.

`docs/reference/metrics.md` is generated from this file.
"""

from session_authority_server.domain.session import EndReason
from session_authority_server.domain.verdict import RejectionReason
from session_authority_server.observability.instruments import Counter, Gauge, Histogram

# The outcomes of a validation, apart from the reasons for a rejection.
ACCEPTED, MALFORMED = "accepted", "malformed"

_CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BARRIER_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_DELAY_BOUNDS = (0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0, 21600.0, 86400.0)
_OUTCOMES = (ACCEPTED, MALFORMED, *(each.value for each in RejectionReason))

RPC_DURATION = Histogram(
    "session_authority_rpc_duration_seconds",
    "Time from the arrival of a unary call to its answer, by method and status code. Leaves out calls that are refused "
    "before they are queued, such as those with an invalid API key; session_authority_rpc_errors_total has these.",
    "method",
    "code",
    bounds=_CALL_BOUNDS,
)
RPC_ERRORS = Counter(
    "session_authority_rpc_errors",
    "Calls and streams answered with an error, by method, status code and error reason.",
    "method",
    "code",
    "reason",
)
QUEUE_CALLS = Gauge("session_authority_queue_calls", "Unary calls that wait in the queue.")
QUEUE_WAIT = Histogram(
    "session_authority_queue_wait_seconds",
    "Wait of the oldest call in the queue, sampled whenever the queue is processed. Other calls wait less.",
    bounds=_CALL_BOUNDS,
)
QUEUE_REFUSALS = Counter(
    "session_authority_queue_refusals",
    "Calls refused because of an overload: `full` (the queue is full), `late` (the call waited too long) or `open` "
    "(too many calls are open).",
    "reason",
    known=[("full",), ("late",), ("open",)],
)
VALIDATIONS = Counter(
    "session_authority_validations",
    "Validated tokens, those in batches included, by outcome: `accepted`, `malformed` (not a token) or the reason for "
    "the rejection. Validations that fail with an error are not counted.",
    "outcome",
    known=[(each,) for each in _OUTCOMES],
)
SUPERSEDED_TOKENS = Counter(
    "session_authority_superseded_tokens",
    "Uses of session tokens that a re-authentication had superseded.",
)
SESSIONS_CREATED = Counter("session_authority_sessions_created", "Sign-ins that were committed.")
SESSIONS_ENDED = Counter(
    "session_authority_sessions_ended",
    "Sessions that ended, by reason. The worker counts sessions that expire, idle out or are ended together with "
    "others, once it finds them. Sessions of erased users are not counted.",
    "reason",
    known=[(each.value,) for each in EndReason],
)
LIVE_SESSIONS = Gauge(
    "session_authority_live_sessions",
    "Live sessions in the database, estimated every 30 seconds by each server. With PostgreSQL, from the statistics of "
    "its planner: usually within 20 %, and as old as the last ANALYZE. With SQLite, counted up to 100,000; that value "
    "means 100,000 or more. Sessions ended together with others count until the worker has recorded their end.",
)
API_KEY_CALLS = Counter(
    "session_authority_api_key_calls",
    "Calls that were permitted, by the id of the API key. After 500 keys, further ones count as `other`.",
    "key_id",
)
DATABASE_DURATION = Histogram(
    "session_authority_database_duration_seconds",
    "Time of an operation on the database, with the wait for a connection: `validate` (one SELECT for a batch of "
    "validations), `read` (other reads) or `write` (a transaction). Failed operations are included.",
    "operation",
    bounds=_CALL_BOUNDS,
)
DATABASE_ERRORS = Counter(
    "session_authority_database_errors",
    "Operations on the database that failed.",
    "operation",
    known=[("validate",), ("read",), ("write",)],
)
DATABASE_CONNECTIONS = Gauge(
    "session_authority_database_connections_in_use",
    "Connections to the database that run an operation now, by pool. The connection that reads API keys is left out.",
    "pool",
)
DATABASE_CONNECTIONS_LIMIT = Gauge(
    "session_authority_database_connections_limit",
    "The most connections to the database that a pool opens.",
    "pool",
)
FENCE_CLOSED = Gauge(
    "session_authority_fence_closed",
    "1 while the database lacks acknowledged endings, so that the server answers no call; 0 otherwise. Absent without a "
    "state directory.",
)
WORKER_RUNS = Counter(
    "session_authority_worker_runs",
    "Runs of the worker, by task and outcome: `done`, `failed` or `refused` (the clock may be wrong).",
    "task",
    "outcome",
)
WORKER_ROWS = Counter(
    "session_authority_worker_rows",
    "Rows that the worker ended, created or deleted, by task.",
    "task",
)
WORKER_LAST_SUCCESS = Gauge(
    "session_authority_worker_last_success_timestamp_seconds",
    "When a task of the worker last ran to its end, in seconds since 1970.",
    "task",
)
WORKER_LAST_DURATION = Gauge(
    "session_authority_worker_last_duration_seconds",
    "How long the last run of a task of the worker took.",
    "task",
)
OLDEST_OVERDUE = Gauge(
    "session_authority_oldest_overdue_seconds",
    "How long the longest overdue session has waited for the worker. 0 if no session is overdue.",
)
EVENT_DELIVERIES = Counter(
    "session_authority_event_deliveries",
    "Attempts to deliver an event, by the name of the receiver and outcome: `delivered` or `failed`.",
    "receiver",
    "outcome",
)
EVENT_DELAY = Histogram(
    "session_authority_event_delay_seconds",
    "Time from the commit of an event to its delivery. Repeated attempts and pauses are included.",
    bounds=_DELAY_BOUNDS,
)
OUTBOX_PENDING = Gauge(
    "session_authority_outbox_pending_events",
    "Events that wait for a receiver, counted by the worker every minute.",
    "receiver",
)
OUTBOX_OLDEST = Gauge(
    "session_authority_outbox_oldest_event_seconds",
    "How long the oldest event has waited for a receiver. 0 if none waits.",
    "receiver",
)
OUTBOX_DROPPED = Counter(
    "session_authority_outbox_events_dropped",
    "Events that the worker dropped, because more than OUTBOX_LIMIT waited for the receiver.",
    "receiver",
)
RECEIVERS_PARKED = Gauge(
    "session_authority_receivers_parked",
    "Receivers whose deliveries failed for days, so that the worker delivers no more until an operator resumes it.",
)
AUDIT_QUEUE = Gauge(
    "session_authority_audit_queue_events", "Events that wait to be written to the audit log."
)
AUDIT_DROPPED = Counter(
    "session_authority_audit_events_dropped",
    "Events that the audit log dropped or could not write.",
)
WATCH_STREAMS = Gauge("session_authority_watch_streams", "Open watch streams.")
WATCH_EVICTIONS = Counter(
    "session_authority_watch_evictions",
    "Changes that caches had to apply: sessions, users, and sweeps of everybody.",
)
WATCH_MESSAGES = Counter(
    "session_authority_watch_messages", "Messages about changes that were sent to streams."
)
WATCH_BARRIER = Histogram(
    "session_authority_watch_barrier_duration_seconds",
    "Time until a probe through the channel of changes came back. Pings wait for it.",
    bounds=_BARRIER_BOUNDS,
)
WATCH_INTERRUPTIONS = Counter(
    "session_authority_watch_interruptions",
    "Streams that the server ended, by cause.",
    "cause",
    known=[("channel_lost",), ("slow",), ("silent",), ("draining",), ("refused",)],
)
TLS_EXPIRY = Gauge(
    "session_authority_tls_certificate_expiry_timestamp_seconds",
    "When the server's TLS certificate expires, in seconds since 1970. Absent without TLS.",
)
CLOCK_SKEW = Gauge(
    "session_authority_clock_skew_seconds",
    "How far this machine's clock is ahead of the database's; negative if it is behind. 0 with SQLite.",
)
BUILD_INFO = Gauge(
    "session_authority_build_info",
    "Always 1. The labels are the versions of Session Authority and Python, the HTTP/2 host (empty in a separate "
    "worker) and the revision of the database's schema.",
    "version",
    "python",
    "host",
    "schema",
)
