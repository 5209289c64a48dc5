"""The Prometheus metrics of the gateway. Labels come from small sets, and never contain data of a user."""

from collections.abc import Callable

from session_authority import NearCacheStatistics
from session_authority.backchannel.receiver import Outcome
from session_authority_gateway.decision import Allowed, Refused
from session_authority_server.observability.instruments import Counter, Gauge

FORWARD_AUTH, EXT_AUTHZ = "forward_auth", "ext_authz"
_ALLOWED, _ANONYMOUS = "allowed", "anonymous"
_OUTCOMES = (
    _ALLOWED,
    _ANONYMOUS,
    "session_required",
    "reauthentication_required",
    "method_required",
    "forged_header",
    "malformed_request",
    "request_too_large",
    "internal",
    "untrusted_proxy",
    "bad_option",
    "unavailable",
)

DECISIONS = Counter(
    "session_authority_gateway_decisions",
    "Decisions about requests, by surface and outcome: `allowed`, `anonymous` (allowed without a session) or the code "
    "of the error.",
    "surface",
    "outcome",
    known=[(surface, outcome) for surface in (FORWARD_AUTH, EXT_AUTHZ) for outcome in _OUTCOMES],
)
SIGNALS = Counter(
    "session_authority_gateway_signals",
    "Sign-outs that identity providers reported, by kind (logout or event) and outcome: `ended`, `repeated`, `ignored` "
    "(an event of another type), `refused` (an invalid token), `unavailable` (an outage) or `failed`.",
    "kind",
    "outcome",
    known=[(kind, outcome.value) for kind in ("logout", "event") for outcome in Outcome],
)
CACHED_SESSIONS = Gauge(
    "session_authority_gateway_cached_sessions", "Sessions in the gateway's near cache."
)
CACHE_CONNECTED = Gauge(
    "session_authority_gateway_cache_connected",
    "1 while the gateway's near cache follows the authority's changes. At 0, each request is a call to the authority.",
)
CACHE_HITS = Gauge(
    "session_authority_gateway_cache_hits",
    "Validations that the near cache answered since the start of the gateway.",
)


def outcome_of(answer: Allowed | Refused) -> str:
    """Return the label of a decision."""
    if isinstance(answer, Refused):
        return answer.error
    return _ALLOWED if answer.identity else _ANONYMOUS


def export_near_cache(read: Callable[[], NearCacheStatistics | None]) -> None:
    """Export the state of the client's near cache, which `read` returns."""

    def number(of: Callable[[NearCacheStatistics], float]) -> Callable[[], float]:
        def value() -> float:
            statistics = read()
            return 0.0 if statistics is None else of(statistics)

        return value

    CACHED_SESSIONS.set_function(number(lambda statistics: statistics.size))
    CACHE_CONNECTED.set_function(number(lambda statistics: statistics.connected))
    CACHE_HITS.set_function(number(lambda statistics: statistics.hits))
