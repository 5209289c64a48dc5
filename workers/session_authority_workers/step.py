"""What every kind of upkeep consists of: steps that find what is due, work on it in batches, and count it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from session_authority_workers.pace import Stride

T = TypeVar("T")
# Called after each batch with the number of rows that it changed.
Progress = Callable[[int], None]


class Batch(NamedTuple):
    """What one batch did.

    Attributes:
        rows: How many rows it changed.
        more: Whether the same piece of work may have more to do now.
        full: Whether it found as many rows as it was allowed to. Otherwise its duration says nothing about larger ones.
        done: Whether the piece is no longer due, so that the due query can now return others.
    """

    rows: int
    more: bool = False
    full: bool = False
    done: bool = False


async def once() -> Sequence[None]:
    """Return one piece of work: the due query of a step whose action finds its rows itself."""
    return (None,)


async def uncounted(_limit: int) -> int:
    """Return 0: the count of a step that a dry run does not report."""
    return 0


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One step of the upkeep.

    Attributes:
        due: Returns the pieces of work that are due.
        act: Works on a piece in one batch of at most so many rows.
        stride: How large the batches are.
        count: Counts what is due up to a limit; None if each piece counts as one.
        before: Runs before each batch of a piece, outside the stride, and returns how many rows it changed.
    """

    due: Callable[[], Awaitable[Sequence[T]]]
    act: Callable[[T, int], Awaitable[Batch]]
    stride: Stride
    count: Callable[[int], Awaitable[int]] | None = None
    before: Callable[[T, Progress], Awaitable[int]] | None = None

    async def run(self, progress: Progress) -> int:
        """Work until nothing can be done, and return how many rows changed."""
        total, look_again = 0, True
        while look_again:
            look_again = False
            for piece in await self.due():
                batch = Batch(0, more=True)
                while batch.more:
                    if self.before is not None:
                        total += await self.before(piece, progress)
                    batch = await self.stride.take(
                        partial(self.act, piece), lambda batch, _limit: batch.full
                    )
                    total += batch.rows
                    if batch.rows:
                        progress(batch.rows)
                    look_again |= batch.done
        return total


class Job:
    """A kind of upkeep: steps, one after another.

    Attributes:
        name: What logs, metrics and `worker` call it.
        least_interval: How often it runs at most.
        steps: Its steps.
    """

    name: str
    least_interval = timedelta(0)
    steps: Sequence[Step[Any]]

    async def __call__(self, progress: Progress = lambda _rows: None) -> int:
        """Work until nothing is due, and return how many rows changed.

        Args:
            progress: Called after each batch with the number of rows that it changed.

        Raises:
            StoreUnavailable: If the store failed; what was done stays done.
        """
        return sum([await step.run(progress) for step in self.steps])

    async def count(self, limit: int) -> int:
        """Return how many rows are due, counting to about a limit."""
        due = 0
        for step in self.steps:
            if due < limit:
                left = limit - due
                due += (
                    min(left, len(await step.due()))
                    if step.count is None
                    else await step.count(left)
                )
        return due
