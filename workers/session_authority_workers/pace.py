import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from session_authority_server.domain.policy import CLOCK_SKEW_ALLOWANCE

T = TypeVar("T")

_GROWTH = 2
_SHRINKAGE = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard the upkeep may work.

    Attributes:
        batch: How many rows the first transaction touches at most.
        smallest_batch: To how many batches shrink at most, however slow the store: fewer would not make it quicker.
        largest_batch: How many any transaction changes at most.
        largest_look: How many any transaction looks at where it changes few of them.
        batch_seconds: How long a transaction should take at most, because other writers wait for it. Batches
            grow while the store is quicker than half of that, and shrink while it is slower.
        pause_share: How long to leave the store to others after a batch, as a share of what it took.
        hold_back: How far behind the present the worker stays, so that it never ends what the slowest
            validator's clock still finds live.
        rest: For how long a sweep of everybody is left alone, beyond that: far longer than the store lets a
            transaction last. Until then a sign-in that began before the sweep may appear where the worker has
            passed by: dead, but never recorded to be.
    """

    batch: int = 500
    smallest_batch: int = 50
    largest_batch: int = 5_000
    largest_look: int = 20_000
    batch_seconds: float = 0.05
    pause_share: float = 0.1
    hold_back: timedelta = field(default=CLOCK_SKEW_ALLOWANCE)
    rest: timedelta = timedelta(minutes=1)


class Stride:
    """Takes batches at the pace that the store's own latency allows."""

    def __init__(self, pace: Pace, largest: int) -> None:
        self._pace = pace
        self._largest = largest
        self._batch = pace.batch
        self._least = min(pace.smallest_batch, pace.batch)

    async def take(
        self, batch: Callable[[int], Awaitable[T]], is_full: Callable[[T, int], bool]
    ) -> T:
        """Run a batch of at most as many rows as it is given, and rest.

        Args:
            batch: What to run.
            is_full: Whether it found as many rows as that: from one that didn't, nothing is learnt.
        """
        limit = self._batch
        loop = asyncio.get_running_loop()
        started = loop.time()
        full = False
        try:
            result = await batch(limit)
            full = is_full(result, limit)
        finally:
            took = loop.time() - started
            self._adjust(took, may_grow=full)  # one that failed may have been too large
        await asyncio.sleep(took * self._pace.pause_share)
        return result

    def _adjust(self, took_seconds: float, *, may_grow: bool) -> None:
        if took_seconds > self._pace.batch_seconds:
            self._batch = max(self._least, int(self._batch * _SHRINKAGE))
        elif may_grow and took_seconds < self._pace.batch_seconds / 2:
            self._batch = min(self._largest, self._batch * _GROWTH)
