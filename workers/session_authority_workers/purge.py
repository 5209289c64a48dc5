from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.ports import UpkeepStore
from session_authority_workers.pace import Pace, Stride
from session_authority_workers.step import Batch, Job, Step, once, uncounted

# How long the hash of an erased user blocks sign-ins that began before the erasure. No sign-in takes longer.
ERASURES_KEPT = timedelta(days=30)
# A lower bound on the history: the worker must audit that a session expired before it deletes the row.
LEAST_RETENTION = timedelta(minutes=5)

Limited = Callable[[int], Awaitable[int]]


class Purge(Job):
    """Deletes sessions and sweeps that have left the history, old retry records, and hashes of erased users."""

    name = "purge"
    least_interval = timedelta(minutes=1)

    def __init__(
        self, store: UpkeepStore, clock: Clock, policy: Policy, pace: Pace | None = None
    ) -> None:
        pace = pace or Pace()

        def cutoff() -> datetime:
            return clock.now() - max(policy.history_retention, LEAST_RETENTION)

        self.steps = (
            # First, because salts must go as soon as their retry window closes.
            _deletion(
                pace,
                lambda limit: store.forget_attempts(clock.now(), limit),
                lambda limit: store.count_attempts(clock.now(), limit),
            ),
            _deletion(
                pace,
                lambda limit: store.purge_ended(
                    cutoff(), limit, made_before=cutoff() - policy.absolute_lifetime
                ),
                lambda limit: store.count_purgeable(cutoff(), limit),
            ),
            _deletion(pace, lambda limit: store.purge_sweeps(cutoff(), limit)),
            _deletion(pace, lambda limit: store.purge_erasures(clock.now() - ERASURES_KEPT, limit)),
        )


def _deletion(pace: Pace, delete: Limited, count: Limited = uncounted) -> Step[None]:
    """Return a step that deletes rows until none are due."""

    async def act(_: None, limit: int) -> Batch:
        deleted = await delete(limit)
        return Batch(deleted, more=deleted > 0, full=deleted >= limit)

    return Step(once, act, Stride(pace, pace.largest_batch), count)
