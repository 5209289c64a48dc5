"""The Prometheus metrics. Labels come from small fixed sets, and never contain data of a user."""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class CallTimes(Collector):
    """A histogram of the duration of calls, by method.

    Unlike the library's histogram it takes no locks, which would slow every validation. This is safe because only the
    thread of the event loop counts calls.
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
        """Return the histograms for prometheus_client."""
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
    "session_authority_rpc_seconds", "Time until calls were answered, by method.", "method"
)
REGISTRY.register(RPC_SECONDS)
QUEUE_SECONDS = CallTimes(
    "session_authority_queue_seconds",
    "Waiting time of the oldest queued call, sampled whenever the queue is processed.",
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
    "How long the longest overdue session has waited for its ending to be recorded.",
)
AUDIT_EVENTS_DROPPED = Counter(
    "session_authority_audit_events_dropped",
    "Events that the audit log dropped or could not write.",
)
WATCH_STREAMS = Gauge(
    "session_authority_watch_streams",
    "Open watch streams.",
)
WATCH_EVICTIONS = Counter(
    "session_authority_watch_evictions",
    "Changes that caches had to apply: sessions, users, and sweeps of everybody.",
)
WATCH_MESSAGES = Counter(
    "session_authority_watch_messages",
    "Messages about changes that were sent to streams.",
)
WATCH_BARRIER_SECONDS = Histogram(
    "session_authority_watch_barrier_seconds",
    "Time until a probe came back. Pings wait for it.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
WATCH_INTERRUPTIONS = Counter(
    "session_authority_watch_interruptions",
    "Streams that the server ended, by cause (channel_lost, slow, silent, draining, refused).",
    ["cause"],
)
