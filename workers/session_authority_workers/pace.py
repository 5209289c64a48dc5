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
    """Limits on the load that the upkeep puts on the store.

    Attributes:
        batch: The most rows that the first transaction touches.
        smallest_batch: The size below which batches never shrink. Smaller batches would not be faster.
        largest_batch: The most rows that any transaction changes.
        largest_scan: The most rows that a transaction reads if it changes few of them.
        batch_seconds: The longest that a transaction should take, because other writers wait for it. Batches
            grow while they take less than half of this time, and shrink while they take more than all of it.
        pause_share: The pause after a batch, as a share of the time that the batch took.
        safety_lag: How far the worker's clock stays behind, so that it never ends a session that a validator with
            a slow clock still accepts.
        rest: How long, beyond `safety_lag`, a sweep of all users waits before it is processed. It is far longer
            than any transaction. A sign-in that began before the sweep may commit in this time, with an id that the
            worker would otherwise have passed already.
    """

    batch: int = 500
    smallest_batch: int = 50
    largest_batch: int = 5_000
    largest_scan: int = 20_000
    batch_seconds: float = 0.05
    pause_share: float = 0.1
    safety_lag: timedelta = field(default=CLOCK_SKEW_ALLOWANCE)
    rest: timedelta = timedelta(minutes=1)


class Stride:
    """Adapts the size of batches to the latency of the store."""

    def __init__(self, pace: Pace, largest: int) -> None:
        self._pace = pace
        self._largest = largest
        self._batch = pace.batch
        self._smallest_batch = min(pace.smallest_batch, pace.batch)

    async def take(
        self, batch: Callable[[int], Awaitable[T]], is_full: Callable[[T, int], bool]
    ) -> T:
        """Run a batch, adapt the size of the next one, and pause.

        Args:
            batch: Processes at most the given number of rows.
            is_full: Whether the batch found that many rows. Only a full batch may make the next one larger.
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
            # Also after a failure, because the batch may have been too large.
            self._adjust(took, may_grow=full)
        await asyncio.sleep(took * self._pace.pause_share)
        return result

    def _adjust(self, took_seconds: float, *, may_grow: bool) -> None:
        if took_seconds > self._pace.batch_seconds:
            self._batch = max(self._smallest_batch, int(self._batch * _SHRINKAGE))
        elif may_grow and took_seconds < self._pace.batch_seconds / 2:
            self._batch = min(self._largest, self._batch * _GROWTH)
