"""The jobs that delete old data.

`Purge` deletes sessions that ended longer ago than `history_retention`, and old retry records. `Erase` deletes the data
of erased users. `Partition` creates new partitions and drops old ones.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.ports.store import PendingErasure, SessionStore
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_workers.pace import Pace, Stride
from session_authority_workers.step import Batch, Job, Step, once, uncounted

# How long the hash of an erased user or of a revoked identity blocks sign-ins that began before. None takes longer.
HASHES_KEPT = timedelta(days=30)
# The minimum time that ended sessions are kept, even if `history_retention` is shorter. The audit log needs this time:
# an expiry can't be recorded once the session's row is deleted.
MIN_RETENTION = timedelta(minutes=5)
ERASURES_AT_ONCE = 1_000

Limited = Callable[[int], Awaitable[int]]


class Purge(Job):
    """Deletes sessions and sweeps that have left the history, old retry records, and old hashes."""

    name = "purge"
    min_interval = timedelta(minutes=1)

    def __init__(
        self, store: UpkeepStore, clock: Clock, policy: Policy, pace: Pace | None = None
    ) -> None:
        pace = pace or Pace()

        def cutoff() -> datetime:
            return clock.now() - max(policy.history_retention, MIN_RETENTION)

        self.steps = (
            # First, because salts must go as soon as their retry window closes.
            deletion(
                pace,
                lambda limit: store.forget_attempts(clock.now(), limit),
                lambda limit: store.count_attempts(clock.now(), limit),
            ),
            deletion(
                pace,
                lambda limit: store.purge_ended(
                    cutoff(), limit, created_before=cutoff() - policy.absolute_lifetime
                ),
                lambda limit: store.count_purgeable(cutoff(), limit),
            ),
            deletion(pace, lambda limit: store.purge_sweeps(cutoff(), limit)),
            deletion(pace, lambda limit: store.purge_erasures(clock.now() - HASHES_KEPT, limit)),
            deletion(
                pace,
                lambda limit: store.purge_revoked_identities(clock.now() - HASHES_KEPT, limit),
            ),
        )


def deletion(pace: Pace, delete: Limited, count: Limited = uncounted) -> Step[None]:
    """Return a step that deletes rows until none are due."""

    async def act(_: None, limit: int) -> Batch:
        deleted = await delete(limit)
        return Batch(deleted, more=deleted > 0, full=deleted >= limit)

    return Step(once, act, Stride(pace, pace.largest_batch), count)


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


class Partition(Job):
    """Creates partitions ahead of time, and drops those whose sessions have all left the history.

    Does nothing if the sessions table has no partitions.
    """

    name = "partition"
    min_interval = timedelta(minutes=10)

    def __init__(self, store: UpkeepStore, clock: Clock, policy: Policy) -> None:
        async def make(end: datetime, _limit: int) -> Batch:
            return Batch(await store.make_partition(end))

        async def old_partitions() -> Sequence[str]:
            ended_before = clock.now() - max(policy.history_retention, MIN_RETENTION)
            created_before = ended_before - policy.absolute_lifetime
            return await store.old_partitions(created_before, ended_before)

        async def drop(name: str, _limit: int) -> Batch:
            return Batch(await store.drop_partition(name))

        stride = Stride(Pace(pause_share=0), 1)
        self.steps = (
            # First, because sign-ins fail without a partition for their time.
            Step(lambda: store.missing_partitions(clock.now()), make, stride),
            Step(old_partitions, drop, stride),
        )
