from collections.abc import Sequence
from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.ports import UpkeepStore
from session_authority_workers.pace import Pace, Stride
from session_authority_workers.purge import LEAST_RETENTION
from session_authority_workers.step import Batch, Job, Step


class Partition(Job):
    """Creates partitions ahead of time, and drops those whose sessions have all left the history.

    Does nothing if the sessions table has no partitions.
    """

    name = "partition"
    least_interval = timedelta(minutes=10)

    def __init__(self, store: UpkeepStore, clock: Clock, policy: Policy) -> None:
        async def make(end: datetime, _limit: int) -> Batch:
            return Batch(await store.make_partition(end))

        async def over() -> Sequence[str]:
            ended_before = clock.now() - max(policy.history_retention, LEAST_RETENTION)
            made_before = ended_before - policy.absolute_lifetime
            return await store.partitions_over(made_before, ended_before)

        async def drop(name: str, _limit: int) -> Batch:
            return Batch(await store.drop_partition(name))

        stride = Stride(Pace(pause_share=0), 1)
        self.steps = (
            # First, because sign-ins fail without a partition for their time.
            Step(lambda: store.missing_partitions(clock.now()), make, stride),
            Step(over, drop, stride),
        )
