"""The limits of server, workers, client, gateway and web integrations, with the numbers of the code."""

from collections.abc import Iterator
from datetime import timedelta

from annotated_types import Le

from session_authority import (
    _batching,
    _channel,
    _concurrency_sync,
    _conversion,
    _core,
    _retries,
    events,
    session_token,
)
from session_authority.backchannel import (
    key_fetch,
    key_source,
    logout_token,
    provider,
    receiver,
    replays,
    security_event,
    signed_token,
)
from session_authority.near_cache import endings, entries, flights, lease, options, stream
from session_authority.web import client_ip, cookies, exchange
from session_authority.web.sessions_page import language, listing
from session_authority.web.sessions_page import options as page_options
from session_authority.web.sessions_page import page as sessions_page
from session_authority_gateway import ext_authz, json_api, json_request, ssf, ssf_documents
from session_authority_gateway import http_server as gateway_http
from session_authority_server.app import grpc_server
from session_authority_server.audit import log as audit_log
from session_authority_server.audit import reading as audit_reading
from session_authority_server.background import (
    activity,
    keyring,
    locations,
    signing_keys,
    superseded,
    wanted_events,
)
from session_authority_server.cli import processes, supervisor
from session_authority_server.cli import receivers as receivers_command
from session_authority_server.config import Settings
from session_authority_server.devices import text as user_agent
from session_authority_server.domain import (
    api_key,
    device,
    errors,
    event_stream,
    location,
    payload,
    policy,
    sign_in,
    token,
    webhook,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.observability import flood_limit, instruments, metrics_port
from session_authority_server.rpc import call_queue, conversion, dispatcher, methods, refused_calls
from session_authority_server.rpc import session_watch_service as watching
from session_authority_server.rpc.host import accept_loop, grpcio, native
from session_authority_server.store import (
    database,
    expiry,
    inserting,
    lost_endings,
    outbox,
    state_directory,
)
from session_authority_server.store.engine import hot_read, postgresql, sqlite
from session_authority_server.store.engine import limits as engine
from session_authority_server.usecases import (
    api_keys,
    erase_user,
    event_streams,
    list_sessions,
    operator_revoke,
    receivers,
)
from session_authority_server.watch import hub, postgresql_channel
from session_authority_server.watch import stream as watch_stream
from session_authority_workers import (
    courier,
    deliver,
    guarded_network,
    keep_outbox,
    purge,
    webhook_sender,
)
from session_authority_workers.pace import Pace

_POLICY = Policy()
_SETTINGS = Settings.model_fields
_PACE = Pace()
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def _most(setting: str) -> int:
    """Return the largest value that a setting takes."""
    (most,) = (each.le for each in _SETTINGS[setting].metadata if isinstance(each, Le))
    return int(str(most))


def span(length: timedelta | float) -> str:
    """Return a length of time for readers, such as `10 minutes`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    for unit, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds > unit and seconds % unit == 0:
            return f"{seconds / unit:,g} {name}s"
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def size(count: int) -> str:
    """Return a number of bytes for readers, such as `64 KiB`."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"


_REQUESTS = f"""
| user id, actor id | 1 to {size(sign_in.USER_ID_LIMIT_BYTES)}, no control characters | INVALID_ARGUMENT `user_id`, `actor_id` |
| user agent | {size(user_agent.USER_AGENT_LIMIT_BYTES)} | cut; control and formatting characters are dropped |
| IP address | one IPv4 or IPv6 address, {sign_in.IP_ADDRESS_LIMIT_CHARACTERS} characters | INVALID_ARGUMENT `ip_address` |
| issuer, subject and sid of an identity | 1 to {size(sign_in.IDENTITY_LIMIT_BYTES)} each, no control characters; `sid` may be empty | INVALID_ARGUMENT `identity.issuer` and so on |
| label of a session | {sign_in.LABEL_LIMIT_CHARACTERS} characters, no control characters, line breaks or bidirectional controls | INVALID_ARGUMENT `label` |
| authentication methods | {sign_in.METHODS_LIMIT}, of 1 to {sign_in.METHOD_LIMIT_CHARACTERS} characters | INVALID_ARGUMENT `authentication_methods[i]` |
| attributes | {sign_in.ATTRIBUTES_LIMIT}; key 1 to {size(sign_in.ATTRIBUTE_KEY_LIMIT_BYTES)}, value {size(sign_in.ATTRIBUTE_VALUE_LIMIT_BYTES)} | INVALID_ARGUMENT `attributes[key]` |
| lifetime of a session | {span(policy.MINIMUM_LIFETIME)} to the policy's, {span(_POLICY.absolute_lifetime)} by default | INVALID_ARGUMENT `lifetime` |
| idle timeout of a session | {span(policy.MINIMUM_IDLE_TIMEOUT)} to the policy's | INVALID_ARGUMENT `idle_timeout` |
| authenticate time ahead of the server's clock | {span(policy.CLOCK_SKEW_ALLOWANCE)} | INVALID_ARGUMENT `authenticate_time` |
| retry secret | none or {size(sign_in.RETRY_SECRET_BYTES)}; repeats the answer for {span(_POLICY.retry_window)} | INVALID_ARGUMENT `retry_secret`; later, a new session |
| reason that an operator gives | {size(sign_in.REASON_LIMIT_BYTES)}, no control characters | INVALID_ARGUMENT `reason` |
| violations that one error names | {errors.VIOLATIONS_LIMIT} | the message says how many more there are |
| tokens in a batch | {_core.BATCH_LIMIT_REQUESTS:,} | INVALID_ARGUMENT `requests` |
| request | {size(methods.REQUEST_LIMIT_BYTES)}; a batch {size(methods.BATCH_REQUEST_LIMIT_BYTES)} | RESOURCE_EXHAUSTED `REQUEST_TOO_LARGE` |
| metadata of a call | {size(grpcio.METADATA_LIMIT_BYTES)} | RESOURCE_EXHAUSTED |
| `x-request-id` of a call | {refused_calls.REQUEST_ID_LIMIT_CHARACTERS} letters, digits and `_.:/+=@-` | the server makes another id |
| page of a list | {list_sessions.PAGE_SIZE_LIMIT} sessions, {list_sessions.DEFAULT_PAGE_SIZE} by default | the page is cut |
| count of a user's live sessions | {list_sessions.COUNT_LIMIT - 1:,} | `total_size` is {list_sessions.COUNT_LIMIT:,} |
| sessions that decide whether a device is new | the latest {inserting.DEVICES_COMPARED:,} that have no recorded end, and the latest {inserting.DEVICES_COMPARED:,} others | earlier ones do not count |
| live sessions of a user | {_POLICY.session_limit} (`SESSION_LIMIT`) | the least recently active one ends, or RESOURCE_EXHAUSTED `SESSION_LIMIT_REACHED` |
| superseded tokens of a session that are recognized | the last {token.SUPERSEDED_HASHES_KEPT} | rejected as NOT_FOUND |
| use of a superseded token without consequences | {span(_POLICY.superseded_grace)} after the re-authentication | by policy, the session ends |
| sessions that wait to end because of a superseded token | {superseded.ENDINGS_LIMIT:,}, each tried {superseded.ENDING_TRIES} times, {span(superseded.ENDING_PAUSE_SECONDS)} apart | logged; the next use tries again |
| browser, system and version that a user agent names | {user_agent.NAME_LIMIT_CHARACTERS} and {user_agent.VERSION_LIMIT_CHARACTERS} characters; display name {device.DISPLAY_NAME_LIMIT_CHARACTERS} | cut |
| RevokeKeySessions, EraseUser | {span(operator_revoke.BUDGET_SECONDS)} and {span(erase_user.BUDGET_SECONDS)} a call | `complete` is false: call again |
| API keys that are good | {api_keys.KEY_LIMIT:,} | `keys create` refuses |
| name and lifetime of an API key | {api_key.NAME_LIMIT_CHARACTERS} characters; {span(api_key.LONGEST_LIFETIME)} | refused |
"""
_CALLS = f"""
| deadline of a call | {span(dispatcher.LONGEST_DEADLINE_SECONDS)}; {span(dispatcher.DEADLINE_SECONDS)} if the caller sends none | DEADLINE_EXCEEDED |
| calls that run at once, without validations | {call_queue.RUNNING_LIMIT} (`MAX_IN_FLIGHT_CALLS`) | the call waits |
| validations that run at once | {call_queue.BATCHES_LIMIT} batches of {call_queue.BATCH_LIMIT} | the call waits |
| calls that wait | {call_queue.WAITING_LIMIT:,}, for {span(call_queue.WAIT_SECONDS)} | RESOURCE_EXHAUSTED `SERVER_OVERLOADED` |
| open unary calls (grpcio host) | {accept_loop.CALLS_LIMIT:,}, for {span(accept_loop.OPEN_SECONDS)} | RESOURCE_EXHAUSTED `SERVER_OVERLOADED`; DEADLINE_EXCEEDED |
| batches of events in the event loop (native host) | {native.BATCHES_IN_LOOP_LIMIT}, of {native.EVENTS_AT_ONCE} events | the host holds the calls |
| unary calls that gRPC holds unread (grpcio host) | {grpcio.PENDING_CALLS:,} | CANCELLED |
| calls that are being refused | {accept_loop.REFUSALS_LIMIT} | CANCELLED |
| open streams | {accept_loop.STREAMS_LIMIT:,} | RESOURCE_EXHAUSTED `SERVER_OVERLOADED` |
| open calls without an API key: health and reflection | {accept_loop.KEYLESS_CALLS_LIMIT} calls and {accept_loop.KEYLESS_STREAMS_LIMIT} streams; {span(accept_loop.KEYLESS_REQUEST_SECONDS)} to send the request | RESOURCE_EXHAUSTED; DEADLINE_EXCEEDED |
| calls and streams of a connection | {grpcio.CALLS_PER_CONNECTION} (`CALLS_PER_CONNECTION`) | the client waits |
| streams of a connection (native host) | {grpc_server.STREAMS_PER_CONNECTION} | the client waits |
| streams of a connection in memory, reset ones included | {1 + grpcio.RESET_STREAMS_PER_CALL} times `CALLS_PER_CONNECTION` | the stream is refused; the client retries |
| connection without a call | {span(grpcio.IDLE_CONNECTION_SECONDS)} | closed |
| TLS handshake | {span(grpcio.HANDSHAKE_SECONDS)} | the connection is closed |
| pings of a connection without a call | one in {span(grpcio.PING_SECONDS)}; {grpcio.PINGS_FORGIVEN} more are forgiven | the connection is closed |
| calls with unknown tokens, of an API key | {_SETTINGS["rejected_tokens_per_minute"].default:,} a minute (`REJECTED_TOKENS_PER_MINUTE`) | RESOURCE_EXHAUSTED `TOO_MANY_REJECTED_TOKENS` |
| proofs of tokens that are cached | {token.PROOFS_LIMIT:,} | the token is hashed again |
| answers that are kept encoded | {conversion.ANSWERS_LIMIT:,} | encoded again |
| combinations of label values of a metric | {instruments.LABELS_LIMIT} | counted together under `{instruments.OTHER}` |
| live sessions that the estimate counts (SQLite) | {sqlite.LIVE_COUNT_LIMIT:,} | the metric stays at this number |
| connections to the metrics port | {metrics_port.CONNECTIONS_LIMIT}; {span(metrics_port.IDLE_SECONDS)} without progress | the oldest one is closed |
"""
_STREAMS = f"""
| streams that watch | {hub.STREAMS_LIMIT:,} | RESOURCE_EXHAUSTED `TOO_MANY_STREAMS` |
| streams that get changes in one tick of {span(hub.TICK_SECONDS)} | {hub.GROUP_LIMIT} | the others get them in the next tick |
| names in a message | {hub.NAMES_LIMIT:,} | the message says that all sessions are concerned |
| messages that wait for a stream | {watch_stream.QUEUE_LIMIT} | ended: `WATCH_INTERRUPTED`, `SLOW` |
| stream without a ping | {span(hub.SILENCE_SECONDS)} | ended: `WATCH_INTERRUPTED`, `SILENT` |
| pings of a stream | one in {span(watching.MINIMUM_PING_INTERVAL_SECONDS)} | read later; the latest is answered |
| stream whose API key has ended | {span(watching.CHECK_SECONDS + watching.LAST_WRITE_SECONDS)} | ended with the key's error |
| probe of PostgreSQL's channel | {span(postgresql_channel.PROBE_SECONDS)}, at least every {span(postgresql_channel.IDLE_SECONDS)} | all streams end: `CHANNEL_LOST` |
| pause before the channel is opened again | {span(postgresql_channel.FIRST_RETRY_SECONDS)}, doubled up to {span(postgresql_channel.LONGEST_RETRY_SECONDS)} | - |
| payload of a notification | {size(postgresql.PAYLOAD_LIMIT_BYTES)} | several notifications |
"""
_STORE = f"""
| wait for a connection to the database | {span(engine.WAIT_SECONDS)} | UNAVAILABLE |
| wait for a lock | {span(postgresql._LOCK_TIMEOUT_MILLISECONDS / 1_000)} (PostgreSQL), {span(sqlite._BUSY_TIMEOUT_MILLISECONDS / 1_000)} (SQLite) | UNAVAILABLE |
| read or transaction | {span(engine.WORK_SECONDS)}, and {span(engine.GIVE_UP_SECONDS)} to stop | UNAVAILABLE; its connection is closed |
| attempts of a transaction that loses races | {database.TRIES} | UNAVAILABLE |
| connections of a process to PostgreSQL | {engine.READERS} for validations, {engine.READERS} for reads, {postgresql.PostgreSQL.writers} for transactions, 1 for API keys, 2 for changes | calls wait |
| decoded rows that a process keeps | {hot_read.REMEMBERED_LIMIT:,} | decoded again |
| activity that waits to be written | {activity.PENDING_LIMIT:,} sessions, written every {span(activity.FLUSH_INTERVAL)} | later activity is not recorded |
| name of a place in the file of locations | {location.PLACE_LIMIT_CHARACTERS} characters | cut; invisible characters are dropped |
| change of the file of locations | noticed within {span(locations.CHECK_SECONDS)} | - |
| locations of addresses that a process keeps | {locations.CACHED_LIMIT:,} | looked up again |
| age of the API keys that a server believes | {span(keyring.TRUST_SECONDS)}, read every {span(keyring.REFRESH_SECONDS)} | UNAVAILABLE |
| latest endings of a process that its state file holds | {state_directory.NUMBERS_LIMIT} | earlier ones are implied by later ones |
| marks of a process that the database keeps | {state_directory.NUMBERS_LIMIT + lost_endings.EXTRA_MARKS_LIMIT:,} | deleted |
| lines of an audit log cut short that `fence --replay` compares | {audit_reading.CUT_LINES_LIMIT} | the log counts as incomplete |
| time that an ended API key is recognized | {span(keyring.ENDED_KEYS_KEPT)} | `API_KEY_INVALID` |
"""
_UPKEEP = f"""
| rows in a transaction of the worker | {_PACE.largest_scan:,} read, {expiry._WRITES_LIMIT:,} written; fewer above {span(_PACE.batch_seconds)} | the next transaction |
| erased users in a transaction of the worker | {purge.ERASURES_AT_ONCE:,} | the next transaction |
| history of sessions and sweeps | {span(_POLICY.history_retention)} (`HISTORY_RETENTION_DAYS`), {span(purge.MIN_RETENTION)} at least | deleted |
| time that an erasure, or the revocation of an identity, refuses earlier sign-ins | {span(purge.HASHES_KEPT)} | a sign-in that began before it is accepted |
| events that wait for the audit log | {audit_log.QUEUE_LIMIT_EVENTS:,} | dropped, counted, and reported when there is room |
| wait for the audit log at a stop | {span(audit_log.DRAIN_SECONDS)} | the rest is lost, and counted |
| equal lines of a log, and rejected credentials of a kind | {flood_limit.PER_SECOND} a second | counted in one line a second |
| receivers of events, and the name of one | {receivers.RECEIVERS_LIMIT}, {receivers.NAME_LIMIT_CHARACTERS} characters | refused |
| time until events are written for a new receiver | {span(receivers.START_DELAY)} | - |
| waiting events that `receivers list` counts | {receivers.BACKLOG_LIMIT:,} | shown as "or more" |
| wait of `receivers test` for a worker | {span(receivers_command.TEST_SECONDS)} | reported |
| body of an event | {size(payload.PAYLOAD_LIMIT_BYTES)} | its fields have limits of their own |
| events that wait for a receiver | {_SETTINGS["outbox_limit"].default:,} (`OUTBOX_LIMIT`) | the oldest are dropped, counted and reported |
| events in a transaction of the worker that drops them | {outbox.DROP_BATCH:,} | the next transaction |
| time that a delivered event is kept for a replay | {span(keep_outbox.DELIVERED_KEPT)} | deleted |
| age of what a process knows of the wanted types | {span(wanted_events.TRUST_SECONDS)}, read every {span(wanted_events.REFRESH_SECONDS)} | every type counts as wanted |
| sessions whose report, of a superseded token, a process remembers | {superseded.REPORTED_LIMIT:,} | reported again |
| pause before a server process is started again | {span(supervisor.FIRST_WAIT_SECONDS)}, doubled up to {span(supervisor.LONGEST_WAIT_SECONDS)} | - |
| server processes on one port | {_most("processes")} | refused at the start |
| wait for a server process to drain | `DRAIN_SECONDS` and {span(processes.DRAIN_MARGIN_SECONDS)} | killed |
"""
_EVENTS = f"""
| URL of a receiver | {webhook.URL_LIMIT_CHARACTERS:,} characters | refused |
| requests of a receiver at once | {webhook_sender.REQUESTS_AT_ONCE}, each of another user; one while it accepts nothing | events wait |
| duration of a request to a receiver | {span(webhook_sender.REQUEST_SECONDS)}, with the look-up of its name and the whole answer | the event is sent again |
| addresses of a receiver that are tried | {guarded_network.ADDRESSES_TRIED}, each for {span(guarded_network.CONNECT_SECONDS)} | the event is sent again |
| answer of a receiver, with its headers | {size(guarded_network.ANSWER_LIMIT_BYTES)} | the event is sent again |
| wait before a failed event is sent again | {span(courier.FIRST_WAIT)}, doubled up to {span(courier.LONGEST_WAIT)}; up to half less at random | - |
| pause between requests to a receiver that accepted none of the last {courier.TROUBLE_FAILURES} | 1 second, doubled up to {span(courier.LONGEST_PAUSE_SECONDS)}; up to half less at random | - |
| time in which an event or a receiver fails | {span(courier.PARK_AFTER)} | the receiver is parked |
| events of a receiver that a worker reads at once | {courier.EVENTS_READ}, and again after {span(courier.FRESH_SECONDS)} | the rest is read later |
| time in which a killed worker keeps its receivers | {span(deliver.LEASE_SECONDS)} | another worker takes over |
| time in which both keys sign after a rotation | {span(webhook.ROTATION_OVERLAP)} | only the new key signs |
| age of an event that a receiver accepts (`events.verify`) | {span(events.TOLERANCE)} | `EventRejected` |
"""
_CLIENT = f"""
| attempts of a call | {_retries.MAX_ATTEMPTS}, with pauses of {_retries.INITIAL_PAUSE_SECONDS:g} to {span(_retries.MAX_PAUSE_SECONDS)}, within the deadline | the last error is raised |
| retries in an outage | {_retries.BUDGET_TOKENS // 2}; each {1 / _retries.TOKENS_OF_AN_ANSWER:g} answers give one back | the first error is raised |
| calls in flight for validations | {_batching.CALLS_LIMIT}, of {_core.BATCH_LIMIT_REQUESTS:,} questions each | questions wait, up to their deadline |
| question that shares a call | {size(_batching.QUESTION_LIMIT_BYTES)} | asked alone |
| token that is worth a call | {size(session_token.TOKEN_LIMIT_BYTES)} | rejected |
| page that the client asks for | {_core.PAGE_LIMIT_SESSIONS} sessions | several pages |
| user agent that is sent | {size(_conversion.USER_AGENT_LIMIT_BYTES)} | cut |
| devices that sessions share in memory | {_conversion.DEVICES_LIMIT:,} | made again |
| answer | {size(_channel.ANSWER_LIMIT_BYTES)} | `RequestTooLarge` |
| sessions in the near cache | {options.DEFAULT_MAX_SESSIONS:,} (`NearCache.max_sessions`, {options.MAX_SESSIONS_LIMIT:,} at most) | the least recently used one is evicted |
| sessions in the near cache that are kept decoded | {entries.HOT_LIMIT_SESSIONS:,} | decoded at each hit |
| age of an answer from the near cache | {span(_POLICY.cache_lease)} after the latest answered ping was sent | the client asks the authority |
| changes that are remembered for validations in flight | {flights.CHANGES_LIMIT:,} | answers in flight are not kept |
| reports of use that wait | {_batching.WAITING_LIMIT:,} | reported at the next use |
| subscriptions of `on_end` | {endings.SUBSCRIPTIONS_LIMIT:,} of a `SessionClient`, or of each event loop of an `AsyncSessionClient` | `Unavailable` |
| watched sessions that a step asks about | {endings.QUESTIONS_LIMIT:,} | the next step asks about the others |
| callbacks of `on_end` that run at once (threads) | {_concurrency_sync.CALLBACK_THREADS_LIMIT} | the others wait |
| pings for a lease | {lease.PINGS_PER_LEASE} | - |
| pause before a stream is opened again | {span(stream.FIRST_WAIT_SECONDS)}, doubled up to {span(stream.WAIT_LIMIT_SECONDS)} | - |
"""
_WEB = f"""
| `Cookie` header | {size(cookies.COOKIE_HEADER_LIMIT_BYTES)} | no session; the cookie stays |
| values of the session cookie that are looked up | {cookies.CANDIDATES_LIMIT} | ignored |
| life of the session cookie | {span(cookies.MAX_AGE_SECONDS)} | the browser drops it |
| forwarding header | its last {client_ip.HEADER_LIMIT_CHARACTERS:,} characters and {client_ip.HOPS_LIMIT} hops | ignored |
| form of the sessions page | {size(sessions_page.FORM_LIMIT_BYTES)} and {exchange.FIELDS_LIMIT} fields | 413; no fields |
| sessions on the page | {listing.ROWS_PER_PAGE} a page, {listing.LISTED_LIMIT_SESSIONS:,} on {listing.PAGE_LIMIT} pages; the latest {listing.ENDED_SHOWN} ended ones | not shown; the download says `"complete": false` |
| `PageOptions.effective_within_seconds` | {span(page_options.EFFECTIVE_LIMIT_SECONDS)} | `ConfigurationError` |
| languages of an `Accept-Language` header | {language.ACCEPTED_LIMIT} | ignored |
"""
_PROVIDERS = f"""
| providers of a program | {provider.PROVIDERS_LIMIT:,} | the program does not start |
| body of a request of a provider | {size(receiver.BODY_LIMIT_BYTES)} | 400 for a logout token, 413 for an event |
| age of a logout token, and of a security event | {span(logout_token.LOGOUT_AGE_SECONDS)}, and {span(security_event.EVENT_AGE_SECONDS)} | 400 |
| difference between the clocks of a provider and a program | {span(signed_token.LEEWAY_SECONDS)} | 400 |
| tokens that a process remembers, to carry out each once | {replays.REMEMBERED_LIMIT:,} logout tokens and as many events | the oldest is forgotten |
| key set and discovery document of a provider | {size(key_fetch.DOCUMENT_LIMIT_BYTES)}, within {span(key_fetch.FETCH_SECONDS)} | the keys count as unavailable |
| pause between two fetches of a provider's keys | {span(key_source.PAUSE_SECONDS)} | 400 for a logout token, 503 for an event |
| age of a provider's keys | fetched again after {span(key_source.FRESH_SECONDS)}; used for at most {span(key_source.USABLE_SECONDS)} | 400 for a logout token, 503 for an event |
| wait that a provider is asked for during an outage | {span(receiver.RETRY_AFTER_SECONDS)} (`Retry-After`) | - |
"""
_SIGNALS = f"""
| streams of an API key's name | 1 | 409 |
| receivers of events, with those of webhooks | {receivers.RECEIVERS_LIMIT} | 403 |
| `events_requested` | {event_stream.EVENTS_REQUESTED_LIMIT}, of {event_stream.EVENT_URI_LIMIT_CHARACTERS} characters | 400 |
| `endpoint_url` and `authorization_header` of a push | {webhook.URL_LIMIT_CHARACTERS:,} and {event_stream.AUTHORIZATION_LIMIT_CHARACTERS:,} characters | 400 |
| `description` | {event_stream.DESCRIPTION_LIMIT_CHARACTERS} characters | cut |
| `state` of a verification | {event_stream.STATE_LIMIT_CHARACTERS:,} characters | 400 |
| verifications of a stream | one in {span(event_stream.MIN_VERIFICATION_INTERVAL)} | 429 |
| events that a new stream misses | those of the first {span(receivers.START_DELAY)} | - |
| body of a request | {size(methods.REQUEST_LIMIT_BYTES)}, within {span(ssf.BODY_SECONDS)} | 413, 408 |
| header `Authorization` of a request | {ssf.AUTHORIZATION_LIMIT_CHARACTERS} characters | 401 |
| events that a poll returns | {ssf_documents.EVENTS_POLLED}, also by gRPC ({event_streams.POLLED_LIMIT}) | `moreAvailable` |
| events that a poll acknowledges or rejects | {event_streams.ACKNOWLEDGED_LIMIT:,} | 400 |
| wait of a poll for an event | {span(ssf.LONG_POLL_SECONDS)}; {ssf.LONG_POLLS_LIMIT} polls at a time | answered without an event |
| age of the keys and the configuration | {span(ssf.PUBLIC_SECONDS)} at receivers, {span(ssf.KEPT_SECONDS)} in the gateway | read again |
| keys in the file of signing keys | {signing_keys.KEYS_LIMIT}; {size(signing_keys.FILE_LIMIT_BYTES)} | the server does not start |
"""
_GATEWAY = f"""
| connections of an HTTP port | {gateway_http.CONNECTIONS_LIMIT:,} | further ones are closed |
| request line and headers of a request over HTTP | {size(gateway_http.HEAD_LIMIT_BYTES)} | 431 |
| time in which a request over HTTP arrives | {gateway_http.RECEIVE_SECONDS:.0f} seconds | the connection is closed |
| `CheckRequest` of Envoy | {size(ext_authz.CHECK_LIMIT_BYTES)} | 431 |
| checks of Envoy that wait for the authority | {ext_authz.CHECKS_LIMIT:,} | 503 |
| call by JSON | as by gRPC: {size(methods.REQUEST_LIMIT_BYTES)}, a batch {size(methods.BATCH_REQUEST_LIMIT_BYTES)} | REQUEST_TOO_LARGE |
| objects in a list of a call by JSON | {json_request.ITEMS_LIMIT:,} | INVALID_ARGUMENT, with the name of the field |
| time until the body of a call by JSON has arrived | {span(json_api.BODY_SECONDS)} | DEADLINE_EXCEEDED |
| calls by JSON that are open | {json_api.CALLS_LIMIT:,}; {size(json_api.BODIES_LIMIT_BYTES)} of bodies | SERVER_OVERLOADED |
| calls by JSON that the authority answers at once | {json_api.CALLS_AT_ONCE_LIMIT} | they wait until their deadline |
"""

LIMITS = {
    "Requests and sessions": _REQUESTS,
    "Calls and connections of a server process": _CALLS,
    "Streams": _STREAMS,
    "Store": _STORE,
    "Upkeep, audit log and processes": _UPKEEP,
    "Events": _EVENTS,
    "Client": _CLIENT,
    "Web integrations": _WEB,
    "Identity providers": _PROVIDERS,
    "Gateway": _GATEWAY,
    "Security events": _SIGNALS,
}
"""The rows of each table: the limit, its value, and what happens beyond it."""


def page() -> Iterator[str]:
    """Return the page about limits."""
    yield from ("A name in brackets is the setting that changes a limit.", "")
    for heading, rows in LIMITS.items():
        yield from (f"## {heading}", "", "| what | limit | beyond it |", "|---|---|---|")
        yield from (*rows.strip().splitlines(), "")
