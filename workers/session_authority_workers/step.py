"""The parts of every upkeep job: steps that find due work, process it in batches, and count it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from session_authority_workers.pace import Stride

T = TypeVar("T")
# Receives the number of rows that each batch changed.
Progress = Callable[[int], None]


class Batch(NamedTuple):
    """The result of one batch.

    Attributes:
        rows: The number of rows that the batch changed.
        more: Whether the same piece of work may have more rows now.
        full: Whether the batch found as many rows as its limit. The duration of a smaller batch says little.
        done: Whether the piece of work is finished. If so, the step calls `due` again, because `due` returns only a
            limited number of pieces.
    """

    rows: int
    more: bool = False
    full: bool = False
    done: bool = False


async def once() -> Sequence[None]:
    """Return a single piece of work, for a step whose action finds its rows itself."""
    return (None,)


async def uncounted(_limit: int) -> int:
    """Return 0, for a step that a dry run does not report."""
    return 0


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One step of a job.

    Attributes:
        due: Returns the pieces of work that are due.
        act: Processes at most the given number of rows of a piece, as one batch.
        stride: Adapts the size of the batches to how long they take.
        count: Counts the due rows up to a limit. Without it, each piece counts as one.
        before: A function that runs before each batch of a piece, and returns how many rows it changed. Its own
            duration does not affect the size of the batches.
    """

    due: Callable[[], Awaitable[Sequence[T]]]
    act: Callable[[T, int], Awaitable[Batch]]
    stride: Stride
    count: Callable[[int], Awaitable[int]] | None = None
    before: Callable[[T, Progress], Awaitable[int]] | None = None

    async def run(self, progress: Progress) -> int:
        """Process all due work, and return how many rows changed."""
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
    """A kind of upkeep: steps that run one after another.

    Attributes:
        name: The job's name in logs, in metrics and in the `worker` command.
        min_interval: The shortest time between two runs.
        steps: The steps, in order.
    """

    name: str
    min_interval = timedelta(0)
    steps: Sequence[Step[Any]]

    async def __call__(self, progress: Progress = lambda _rows: None) -> int:
        """Process all due work, and return how many rows changed.

        Args:
            progress: Receives the number of rows that each batch changed.

        Raises:
            StoreUnavailable: If the store failed. Committed batches stay committed.
        """
        return sum([await step.run(progress) for step in self.steps])

    async def count(self, limit: int) -> int:
        """Return how many rows are due, but at most `limit`."""
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
