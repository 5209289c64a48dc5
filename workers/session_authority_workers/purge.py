import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.store.protocol import UpkeepStore
from session_authority_workers.expire import Progress
from session_authority_workers.pace import Pace


class Purge:
    """Deletes sessions that ended longer ago than the history goes, and what repeats calls."""

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
        purged = await self._repeat(lambda: store.purge_ended(self._cutoff(), batch), progress)
        return purged + await self._repeat(
            lambda: store.forget_attempts(self._clock.now(), batch), progress
        )

    async def count(self, limit: int) -> int:
        """Return how many sessions would be deleted, counting to a limit at most."""
        return await self._store.count_purgeable(self._cutoff(), limit)

    async def _repeat(self, step: Callable[[], Awaitable[int]], progress: Progress) -> int:
        total = 0
        while deleted := await step():
            total += deleted
            progress(deleted)
            await asyncio.sleep(self._pace.pause_seconds)
        return total

    def _cutoff(self) -> datetime:
        return self._clock.now() - self._policy.history_retention
