import logging
from datetime import timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.receiver import ReceiverState
from session_authority_server.observability.metrics import (
    OUTBOX_DROPPED,
    OUTBOX_OLDEST,
    OUTBOX_PENDING,
    RECEIVERS_PARKED,
)
from session_authority_server.ports.outbox import Outbox
from session_authority_workers.pace import Pace
from session_authority_workers.purge import deletion
from session_authority_workers.step import Job, Progress

# How long a delivered event is kept, so that it can be replayed.
DELIVERED_KEPT = timedelta(days=3)
# How long a removed receiver is kept. By then, every transaction that knew it has ended.
REMOVED_KEPT = timedelta(minutes=1)

_log = logging.getLogger(__name__)


class KeepOutbox(Job):
    """Keeps the outbox small: deletes delivered events and those of removed receivers, and drops what is too much."""

    name = "outbox"
    min_interval = timedelta(minutes=1)

    def __init__(self, outbox: Outbox, clock: Clock, limit: int, pace: Pace | None = None) -> None:
        pace = pace or Pace()
        self._outbox = outbox
        self._clock = clock
        self._limit = limit
        self._measured: set[str] = set()
        # The receivers whose dropped events the log has already reported.
        self._overfull: set[str] = set()
        self.steps = (
            deletion(pace, lambda most: outbox.purge_delivered(clock.now() - DELIVERED_KEPT, most)),
            deletion(pace, lambda most: outbox.purge_removed(clock.now() - REMOVED_KEPT, most)),
        )

    async def __call__(self, progress: Progress = lambda _rows: None) -> int:
        deleted = await super().__call__(progress)
        dropped = await self._outbox.drop_excess(self._limit)
        for name, count in dropped.items():
            OUTBOX_DROPPED.inc(name, by=count)
            if name not in self._overfull:
                _log.error(
                    "more than %d events waited for the receiver %s; the oldest are dropped",
                    self._limit,
                    name,
                )
        self._overfull = set(dropped)
        await self._measure()
        return deleted + sum(dropped.values())

    async def _measure(self) -> None:
        now, backlogs = self._clock.now(), await self._outbox.backlogs(self._limit)
        for name in self._measured - backlogs.keys():
            OUTBOX_PENDING.set(0, name)
            OUTBOX_OLDEST.set(0, name)
        self._measured = set(backlogs)
        for name, backlog in backlogs.items():
            waited = timedelta(0) if backlog.oldest is None else now - backlog.oldest
            OUTBOX_DROPPED.inc(
                name, by=0
            )  # The series must exist before the first drop, so that a rate sees it.
            OUTBOX_PENDING.set(backlog.pending, name)
            OUTBOX_OLDEST.set(waited.total_seconds(), name)
        RECEIVERS_PARKED.set(
            sum(backlog.state is ReceiverState.PARKED for backlog in backlogs.values())
        )
