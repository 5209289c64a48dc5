import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.store.protocol import (
    EVENTS_AT_ONCE,
    NOWHERE,
    Audit,
    ExpiryBatch,
    PendingSweep,
    SweepBatch,
    UpkeepStore,
)
from session_authority_workers.pace import Pace, Stride

SWEEPS_AT_ONCE = 1_000

_log = logging.getLogger(__name__)

Progress = Callable[[int], None]


class Expire:
    """Goes through the sessions that lifetimes, idle timeouts and sweeps have ended already.

    Of those that idleness or a sweep ended it records that; those that expired say so themselves. Validation
    never waits for it. It can be killed between any two statements and run any number of times at once: each
    batch is one transaction, and what one worker is at, it does not begin anew with the others.

    Each session that it finds ended is told to the audit log, if there is one.
    """

    name = "expire"

    def __init__(
        self,
        store: UpkeepStore,
        clock: Clock,
        pace: Pace | None = None,
        audit: Audit = NOWHERE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._named = audit is not NOWHERE
        self._pace = pace or Pace()
        self._looking = Stride(self._pace, self._pace.largest_look)
        self._sweeping = Stride(self._pace, self._pace.largest_batch)

    async def __call__(self, progress: Progress = lambda _ended: None) -> int:
        """Work until nothing is due, and return how many sessions were ended.

        Args:
            progress: Told after each batch how many sessions it ended.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        ended = await self._end_overdue(progress)
        settled = True
        while settled:
            settled = False
            for sweep in await self._pending_sweeps():
                ended_now, settled_now = await self._settle(sweep, progress)
                ended += ended_now
                settled |= settled_now
        return ended

    async def count(self, limit: int) -> int:
        """Return how many sessions would be ended, counting to about a limit."""
        due = await self._store.count_overdue(self._cutoff(), limit)
        for sweep in await self._pending_sweeps():
            if due >= limit:
                break
            due += await self._store.count_swept(sweep, limit - due)
        return due

    async def oldest_overdue(self) -> datetime | None:
        """Return since when the session longest overdue has been so."""
        return await self._store.oldest_overdue(self._cutoff())

    async def _end_overdue(self, progress: Progress) -> int:
        ended = 0
        while True:
            await self._audit.room()
            batch = await self._looking.take(
                lambda limit: self._store.end_overdue(
                    self._cutoff(), self._at_most(limit), named=self._named, committed=self._tell
                ),
                lambda batch, limit: batch.examined >= self._at_most(limit),
            )
            if batch.busy:
                _log.info("another worker is going through what is overdue")
            ended += batch.count
            progress(batch.count)
            if not batch.examined:  # somebody else who is at it goes on until nothing is due
                return ended

    async def _settle(self, sweep: PendingSweep, progress: Progress) -> tuple[int, bool]:
        """Record what a sweep ended, and return how many sessions that was and whether it was all."""
        ended, all_ended = 0, True
        after: UUID | None = None
        while True:
            await self._audit.room()
            batch = await self._sweeping.take(
                lambda limit, after=after: self._store.end_swept(  # type: ignore[misc]
                    sweep, self._cutoff(), after, self._at_most(limit), committed=self._tell
                ),
                lambda batch, _limit: batch.last is not None,
            )
            ended += len(batch.ended)
            all_ended &= not batch.left
            progress(len(batch.ended))
            after = batch.last
            if after is None:
                break
            # However much was swept, what comes due meanwhile does not wait for it.
            ended += await self._end_overdue(progress)
        if all_ended:
            await self._store.settle_sweep(sweep)
        return ended, all_ended

    async def _pending_sweeps(self) -> Sequence[PendingSweep]:
        rested = self._cutoff() - self._pace.rest
        return await self._store.pending_sweeps(SWEEPS_AT_ONCE, rested)

    def _at_most(self, limit: int) -> int:
        return min(limit, EVENTS_AT_ONCE) if self._named else limit

    def _tell(self, batch: ExpiryBatch | SweepBatch) -> None:
        self._audit.record(*batch.ended)

    def _cutoff(self) -> datetime:
        return self._clock.now() - self._pace.hold_back
