from session_authority_server.ports import PendingErasure, SessionStore, UpkeepStore
from session_authority_workers.pace import Pace, Stride
from session_authority_workers.step import Batch, Job, Step

ERASURES_AT_ONCE = 1_000


class Erase(Job):
    """Finishes erasures whose EraseUser call ran out of time.

    Rows that another transaction has locked are left for the next run.
    """

    name = "erase"

    def __init__(
        self, store: UpkeepStore, sessions: SessionStore, pace: Pace | None = None
    ) -> None:
        pace = pace or Pace()

        async def erase(erasure: PendingErasure, limit: int) -> Batch:
            batch = await sessions.erase_some(erasure, limit)
            return Batch(
                batch.deleted,
                more=batch.deleted > 0 and not batch.complete,
                full=batch.deleted >= limit,
                done=batch.complete,
            )

        async def count(limit: int) -> int:
            return len(await store.pending_erasures(limit))

        self.steps = (
            Step(
                lambda: store.pending_erasures(ERASURES_AT_ONCE),
                erase,
                Stride(pace, pace.largest_batch),
                count,
            ),
        )
