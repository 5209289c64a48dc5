"""The lease: for how long what is kept may be used, and the stream that renews it.

A stream is a *generation*. Within it, each answered ping says that every change committed before the ping was
received has arrived. So at any moment before "when that ping was sent + lease", a kept session can have ended no
longer ago than the lease: the authority's `effective_time` has not come yet.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial

FIRST_PINGS_SECONDS = 0.5
"""The time between pings while no pong has said what the lease is."""

STALE_AFTER_SECONDS = 5.0
PINGS_PER_LEASE = 2
JITTER = 0.25


def _suspend_proof() -> Callable[[], float] | None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        # There CLOCK_MONOTONIC goes on during sleep, unlike what time.monotonic reads (clock_gettime(3)).
        return partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if sys.platform == "win32":
        return time.monotonic  # counts sleep and hibernation
    return None


def _no_clock() -> float:
    """Stand in where no clock counts suspend: no lease is ever running, so nothing is kept."""
    return math.inf


lease_clock: Callable[[], float] = _suspend_proof() or _no_clock
"""Seconds since an arbitrary moment, counting those during which the machine was suspended."""


class Lease:
    """Pings that were sent, the latest that was answered, and what follows from it.

    Attributes:
        until: The moment before which what is kept may be used. Minus infinity without a lease.
        generation: The number of the present stream, and of the latest one while there is none.
        established: Whether the present stream has answered a ping.
        renewed_at: When the latest answered ping was sent.
        seconds: The lease that the latest pong gave.
    """

    __slots__ = (
        "_ping_id",
        "_unanswered",
        "established",
        "generation",
        "renewed_at",
        "seconds",
        "until",
    )

    def __init__(self) -> None:
        self.until = -math.inf
        self.generation = 0
        self.established = False
        self.renewed_at = -math.inf
        self.seconds = FIRST_PINGS_SECONDS * PINGS_PER_LEASE
        self._ping_id = 0
        self._unanswered: dict[int, float] = {}

    def begin(self) -> int:
        """Begin a generation, without a lease, and give its number."""
        self.end()
        self.generation += 1
        return self.generation

    def end(self) -> None:
        """End the lease: the stream is gone."""
        self.until = -math.inf
        self.established = False
        self._unanswered.clear()

    def ping(self, now: float) -> int:
        """Give the id of a ping that is sent now, or later than now. No other ever has it."""
        self._ping_id += 1
        self._unanswered[self._ping_id] = now
        return self._ping_id

    def pong(self, ping_id: int, seconds: float) -> bool:
        """Renew the lease from the moment at which the ping was sent; say whether it was one of ours."""
        sent_at = self._unanswered.get(ping_id)
        if sent_at is None or not 0 < seconds < math.inf:
            return False
        for earlier in [each for each in self._unanswered if each <= ping_id]:
            del self._unanswered[earlier]
        self.established = True
        self.renewed_at, self.seconds = sent_at, seconds
        self.until = sent_at + seconds
        return True

    def pause_seconds(self, random: float) -> float:
        """Give the time to the next ping, from a random number between 0 and 1."""
        return self.seconds / PINGS_PER_LEASE * (1 - JITTER * random)

    def is_stale(self, now: float) -> bool:
        """Say whether a ping has waited for so long that another stream is worth more."""
        oldest = next(iter(self._unanswered.values()), None)
        return oldest is not None and now - oldest > max(STALE_AFTER_SECONDS, 2 * self.seconds)
