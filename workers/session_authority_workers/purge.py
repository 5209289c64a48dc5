import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.store.protocol import UpkeepStore
from session_authority_workers.expire import Progress
from session_authority_workers.pace import Pace


class Purge:
    """Deletes sessions and sweeps older than the history goes, and what repeats calls."""

    name = "purge"

    def __init__(
        self, store: UpkeepStore, clock: Clock, policy: Policy, pace: Pace | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._pace = pace or Pace()

    async def __call__(self, progress: Progress = lambda _purged: None) -> int:
        """Work until nothing is due, and return how many rows were deleted.

        Args:
            progress: Told after each batch how many rows it deleted.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        store, batch = self._store, self._pace.batch
        # First, because a salt is to be erased when its window closes, however long the rest takes.
        forgotten = await self._repeat(
            lambda: store.forget_attempts(self._clock.now(), batch), progress
        )
        ended = await self._repeat(lambda: store.purge_ended(self._cutoff(), batch), progress)
        swept = await self._repeat(lambda: store.purge_sweeps(self._cutoff(), batch), progress)
        return forgotten + ended + swept

    async def count(self, limit: int) -> int:
        """Return how many sessions and repeatable calls would be deleted, counting to about a limit."""
        ended = await self._store.count_purgeable(self._cutoff(), limit)
        return ended + await self._store.count_attempts(self._clock.now(), limit)

    async def _repeat(self, step: Callable[[], Awaitable[int]], progress: Progress) -> int:
        total = 0
        while deleted := await step():
            total += deleted
            progress(deleted)
            await asyncio.sleep(self._pace.pause_seconds)
        return total

    def _cutoff(self) -> datetime:
        return self._clock.now() - self._policy.history_retention
