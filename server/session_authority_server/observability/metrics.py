"""What operators can measure. Labels are from small fixed sets; nothing of a user is in one."""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class CallTimes(Collector):
    """How long calls took, by method.

    Counted without the locks of the library's own histogram, which every validation would pay for: all calls
    are counted in the one thread of the event loop.
    """

    _BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

    def __init__(self, name: str, meaning: str, label: str | None) -> None:
        self._name, self._meaning, self._label = name, meaning, label
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, method: str, seconds: float) -> None:
        """Count a call."""
        counts = self._counts.get(method)
        if counts is None:
            counts = self._counts[method] = [0] * (len(self._BOUNDS) + 1)
            self._sums[method] = 0.0
        counts[bisect_left(self._BOUNDS, seconds)] += 1
        self._sums[method] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return what was counted, as the library asks for it."""
        family = HistogramMetricFamily(
            self._name, self._meaning, labels=[self._label] if self._label else []
        )
        for method, counts in list(self._counts.items()):
            total, buckets = 0, []
            for bound, count in zip((*map(str, self._BOUNDS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric([method] if self._label else [], buckets, self._sums[method])
        yield family


RPC_SECONDS = CallTimes(
    "session_authority_rpc_seconds", "How long calls took to answer, by method.", "method"
)
REGISTRY.register(RPC_SECONDS)
QUEUE_SECONDS = CallTimes(
    "session_authority_queue_seconds",
    "How long the oldest waiting call had waited, whenever the queue was looked at.",
    None,
)
REGISTRY.register(QUEUE_SECONDS)
QUEUE_CALLS = Gauge("session_authority_queue_calls", "Calls that wait in the queue.")

RPC_ERRORS = Counter(
    "session_authority_rpc_errors",
    "Calls answered with an error, by method and reason.",
    ["method", "reason"],
)
WORKER_RUNS = Counter(
    "session_authority_worker_runs",
    "Runs of the upkeep, by job and outcome (done, failed).",
    ["job", "outcome"],
)
WORKER_ROWS = Counter(
    "session_authority_worker_rows",
    "Rows that the upkeep ended or deleted, by job.",
    ["job"],
)
SUPERSEDED_TOKENS = Counter(
    "session_authority_superseded_tokens",
    "Uses of session tokens that a re-authentication had superseded.",
)
CLOCK_SKEW_SECONDS = Gauge(
    "session_authority_clock_skew_seconds",
    "How far this process's clock is ahead of the database's.",
)
OLDEST_OVERDUE_SECONDS = Gauge(
    "session_authority_oldest_overdue_seconds",
    "For how long the session longest overdue has waited for its ending to be recorded.",
)
AUDIT_EVENTS_DROPPED = Counter(
    "session_authority_audit_events_dropped",
    "Events that the audit log could not take or write.",
)
WATCH_STREAMS = Gauge(
    "session_authority_watch_streams",
    "Streams that are open to tell caches what they must forget.",
)
WATCH_EVICTIONS = Counter(
    "session_authority_watch_evictions",
    "Sessions, users, or everybody, that caches had to forget.",
)
WATCH_MESSAGES = Counter(
    "session_authority_watch_messages",
    "Messages about changes that were sent to streams.",
)
WATCH_BARRIER_SECONDS = Histogram(
    "session_authority_watch_barrier_seconds",
    "How long a probe took to come back, before which no ping is answered.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
WATCH_INTERRUPTIONS = Counter(
    "session_authority_watch_interruptions",
    "Streams that the server ended, by cause (channel_lost, slow, silent, draining, refused).",
    ["cause"],
)
