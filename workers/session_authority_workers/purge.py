from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.store.protocol import UpkeepStore
from session_authority_workers.expire import Progress
from session_authority_workers.pace import Pace, Stride

# For how long an erased user's hash shuts out what was begun before: no sign-in is under way for longer.
ERASURES_KEPT = timedelta(days=30)
# However short the history: the worker is to find, and tell, that a session expired before its row goes.
LEAST_RETENTION = timedelta(minutes=5)


class Purge:
    """Deletes sessions and sweeps older than the history goes, what repeats calls, and hashes of the erased."""

    name = "purge"
    least_interval = timedelta(minutes=1)

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
        store = self._store
        # First, because a salt is to be erased when its window closes, however long the rest takes.
        forgotten = await self._repeat(
            lambda limit: store.forget_attempts(self._clock.now(), limit), progress
        )
        ended = await self._repeat(
            lambda limit: store.purge_ended(self._cutoff(), limit, self._made_before()), progress
        )
        swept = await self._repeat(
            lambda limit: store.purge_sweeps(self._cutoff(), limit), progress
        )
        erased = await self._repeat(
            lambda limit: store.purge_erasures(self._clock.now() - ERASURES_KEPT, limit), progress
        )
        return forgotten + ended + swept + erased

    async def count(self, limit: int) -> int:
        """Return how many sessions and repeatable calls would be deleted, counting to about a limit."""
        ended = await self._store.count_purgeable(self._cutoff(), limit)
        return ended + await self._store.count_attempts(self._clock.now(), limit)

    async def _repeat(self, step: Callable[[int], Awaitable[int]], progress: Progress) -> int:
        total = 0
        stride = Stride(self._pace, self._pace.largest_batch)  # rows of each kind cost another time
        while deleted := await stride.take(step, lambda deleted, limit: deleted >= limit):
            total += deleted
            progress(deleted)
        return total

    def _cutoff(self) -> datetime:
        return self._clock.now() - max(self._policy.history_retention, LEAST_RETENTION)

    def _made_before(self) -> datetime:
        """Return before when those were made that expired so long ago, and did not end any earlier."""
        return self._cutoff() - self._policy.absolute_lifetime
