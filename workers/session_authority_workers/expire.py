import asyncio
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.store.protocol import PendingSweep, UpkeepStore
from session_authority_workers.pace import Pace

SWEEPS_AT_ONCE = 1_000

Progress = Callable[[int], None]


class Expire:
    """Records the endings that lifetimes, idle timeouts and sweeps already imply.

    Validation never waits for it. It can be killed between any two statements and run any number of times
    at once: each batch is one transaction that changes what is still due.
    """

    name = "expire"

    def __init__(self, store: UpkeepStore, clock: Clock, pace: Pace | None = None) -> None:
        self._store = store
        self._clock = clock
        self._pace = pace or Pace()

    async def __call__(self, progress: Progress = lambda _ended: None) -> int:
        """Work until nothing is due, and return how many sessions were ended.

        Args:
            progress: Told after each batch how many sessions it ended.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        ended = await self._end_overdue(progress)
        while sweeps := await self._store.pending_sweeps(SWEEPS_AT_ONCE):
            for sweep in sweeps:
                ended += await self._settle(sweep, progress)
        return ended

    async def count(self, limit: int) -> int:
        """Return how many sessions would be ended, counting to about a limit."""
        due = await self._store.count_overdue(self._cutoff(), limit)
        for sweep in await self._store.pending_sweeps(SWEEPS_AT_ONCE):
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
            batch = await self._store.end_overdue(self._cutoff(), self._pace.batch)
            ended += len(batch.ended)
            progress(len(batch.ended))
            if not batch.examined:
                return ended
            await asyncio.sleep(self._pace.pause_seconds)

    async def _settle(self, sweep: PendingSweep, progress: Progress) -> int:
        ended = 0
        after: UUID | None = None
        while True:
            batch, after = await self._store.end_swept(
                sweep, self._cutoff(), after, self._pace.batch
            )
            ended += len(batch.ended)
            progress(len(batch.ended))
            if after is None:
                break
            # However much was swept, what comes due meanwhile does not wait for it.
            ended += await self._end_overdue(progress)
        await self._store.settle_sweep(sweep)
        return ended

    def _cutoff(self) -> datetime:
        return self._clock.now() - self._pace.hold_back
