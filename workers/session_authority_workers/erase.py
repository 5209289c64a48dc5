from datetime import timedelta

from session_authority_server.store.protocol import UpkeepStore
from session_authority_workers.expire import Progress
from session_authority_workers.pace import Pace, Stride

ERASURES_AT_ONCE = 1_000


class Erase:
    """Deletes what the calls that erased users had no time for."""

    name = "erase"
    least_interval = timedelta(0)

    def __init__(self, store: UpkeepStore, pace: Pace | None = None) -> None:
        self._store = store
        pace = pace or Pace()
        self._stride = Stride(pace, pace.largest_batch)

    async def __call__(self, progress: Progress = lambda _deleted: None) -> int:
        """Work until nothing can be done, and return how many sessions were deleted.

        What somebody else has locked is left to the next time.

        Args:
            progress: Told after each batch how many sessions it deleted.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        total = 0
        for erasure in await self._store.pending_erasures(ERASURES_AT_ONCE):
            while True:
                batch = await self._stride.take(
                    lambda limit, erasure=erasure: self._store.erase_some(  # type: ignore[misc]
                        erasure, limit
                    ),
                    lambda batch, limit: batch.deleted >= limit,
                )
                total += batch.deleted
                progress(batch.deleted)
                if batch.complete or not batch.deleted:
                    break
        return total

    async def count(self, limit: int) -> int:
        """Return how many erasures are not complete, counting to a limit."""
        return len(await self._store.pending_erasures(limit))
