import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.session import EndReason
from session_authority_server.observability.metrics import SESSIONS_ENDED
from session_authority_server.ports.store import EVENTS_AT_ONCE, NO_AUDIT, Audit
from session_authority_server.ports.upkeep import ExpiryBatch, PendingSweep, SweepBatch, UpkeepStore
from session_authority_workers.pace import Pace, Stride
from session_authority_workers.step import Batch, Job, Progress, Step, once

SWEEPS_AT_ONCE = 1_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _SweepProgress:
    """The progress of a run through the sessions of one sweep.

    Attributes:
        sweep: The sweep.
        after: The id to continue after; None at the start.
        all_ended: Whether no session was skipped so far.
    """

    sweep: PendingSweep
    after: UUID | None = None
    all_ended: bool = True


class Expire(Job):
    """Records which sessions have ended by an idle timeout or a sweep.

    Sessions past their lifetime need no record, because their row already implies the end. Validation does not
    depend on this job. With an audit log, the job reports each session that it finds ended, the expired ones too.

    Each batch is one transaction, so the job can be killed at any time. Several workers can run it: two of them
    never process the same session at the same time.
    """

    name = "expire"

    def __init__(
        self,
        store: UpkeepStore,
        clock: Clock,
        pace: Pace | None = None,
        audit: Audit = NO_AUDIT,
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._named = audit is not NO_AUDIT
        self._pace = pace or Pace()
        self._overdue = Step(
            once,
            self._end_overdue,
            Stride(self._pace, self._pace.largest_scan),
            lambda limit: store.count_overdue(self._cutoff(), limit),
            self._make_room,
        )
        swept = Step(
            self._unsettled_sweeps,
            self._end_swept,
            Stride(self._pace, self._pace.largest_batch),
            self._count_swept,
            self._end_overdue_between_batches,
        )
        self.steps = (self._overdue, swept)

    async def oldest_overdue(self) -> datetime | None:
        """Return when the longest overdue session became due, or None."""
        return await self._store.oldest_overdue(self._cutoff())

    async def _end_overdue(self, _: None, limit: int) -> Batch:
        limit = self._batch_limit(limit)
        batch = await self._store.end_overdue(
            self._cutoff(), limit, named=self._named, committed=self._record
        )
        if batch.busy:  # The other worker continues until nothing is due.
            _log.info("another worker is recording overdue sessions")
        return Batch(batch.count, more=batch.examined > 0, full=batch.examined >= limit)

    async def _make_room(self, _: None, _progress: Progress) -> int:
        await self._audit.wait_for_room()
        return 0

    async def _unsettled_sweeps(self) -> Sequence[_SweepProgress]:
        return [_SweepProgress(sweep) for sweep in await self._pending_sweeps()]

    async def _end_swept(self, sweep_progress: _SweepProgress, limit: int) -> Batch:
        batch = await self._store.end_swept(
            sweep_progress.sweep,
            self._cutoff(),
            sweep_progress.after,
            self._batch_limit(limit),
            committed=self._record,
        )
        sweep_progress.after = batch.last
        sweep_progress.all_ended &= not batch.left
        more = batch.last is not None
        settled = not more and sweep_progress.all_ended
        if settled:
            await self._store.settle_sweep(sweep_progress.sweep)
        return Batch(len(batch.ended), more=more, full=more, done=settled)

    async def _end_overdue_between_batches(
        self, sweep_progress: _SweepProgress, progress: Progress
    ) -> int:
        # A long sweep must not delay sessions that become due meanwhile.
        ended = 0 if sweep_progress.after is None else await self._overdue.run(progress)
        await self._audit.wait_for_room()
        return ended

    async def _count_swept(self, limit: int) -> int:
        due = 0
        for sweep in await self._pending_sweeps():
            if due < limit:
                due += await self._store.count_swept(sweep, limit - due)
        return due

    async def _pending_sweeps(self) -> Sequence[PendingSweep]:
        rested = self._cutoff() - self._pace.rest
        return await self._store.pending_sweeps(SWEEPS_AT_ONCE, rested)

    def _batch_limit(self, limit: int) -> int:
        return min(limit, EVENTS_AT_ONCE) if self._named else limit

    def _record(self, batch: ExpiryBatch | SweepBatch) -> None:
        for each in batch.ended:
            SESSIONS_ENDED.inc(each.ending.reason.value)
        if isinstance(batch, ExpiryBatch):
            # Without an audit log, expired sessions are only counted.
            SESSIONS_ENDED.inc(EndReason.EXPIRED.value, by=batch.count - len(batch.ended))
        self._audit.record(*batch.ended)

    def _cutoff(self) -> datetime:
        return self._clock.now() - self._pace.safety_lag
