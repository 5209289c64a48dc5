from collections.abc import Sequence
from datetime import timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.store.protocol import UpkeepStore
from session_authority_workers.expire import Progress
from session_authority_workers.purge import LEAST_RETENTION


class Partition:
    """Makes partitions ahead of time, and drops those whose sessions are all beyond the history.

    Where sessions are not kept in partitions, there is nothing to do.
    """

    name = "partition"
    least_interval = timedelta(minutes=10)

    def __init__(self, store: UpkeepStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def __call__(self, progress: Progress = lambda _partitions: None) -> int:
        """Work until nothing is due, and return how many partitions were made and dropped.

        Args:
            progress: Told after each partition.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        done = 0
        # First, and whatever becomes of the rest: without them, sign-ins fail some day.
        for end in await self._store.missing_partitions(self._clock.now()):
            done += await self._store.make_partition(end)
            progress(1)
        for name in await self._over():
            done += await self._store.drop_partition(name)
            progress(1)
        return done

    async def count(self, limit: int) -> int:
        """Return how many partitions would be made and dropped, counting to a limit."""
        missing = await self._store.missing_partitions(self._clock.now())
        return min(limit, len(missing) + len(await self._over()))

    async def _over(self) -> Sequence[str]:
        now = self._clock.now()
        kept = max(self._policy.history_retention, LEAST_RETENTION)
        made_before = now - self._policy.absolute_lifetime - kept
        return await self._store.partitions_over(made_before, now - kept)
