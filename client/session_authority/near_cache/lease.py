"""The lease: how long cached answers may be used, and the pings that renew it.

Each stream is a *generation*. A pong proves that every change has arrived that was committed before the authority
received the ping. The lease begins when that ping is sent. So while the lease lasts, a cached session can have ended at
most one lease ago, and the `effective_time` of that end is still in the future.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial

FIRST_PINGS_SECONDS = 0.5
"""The time between pings until the first pong gives the length of the lease."""

STALE_AFTER_SECONDS = 5.0
PINGS_PER_LEASE = 2
JITTER = 0.25


def _clock_counting_suspend() -> Callable[[], float] | None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        # On macOS, CLOCK_MONOTONIC includes the time in sleep, but time.monotonic does not (clock_gettime(3)).
        return partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if sys.platform == "win32":
        return time.monotonic  # includes the time in sleep and hibernation
    return None


def _no_lease_clock() -> float:
    """Return infinity, so that every lease is over: no clock of this system includes the time in suspend."""
    return math.inf


lease_clock: Callable[[], float] = _clock_counting_suspend() or _no_lease_clock
"""Seconds since an arbitrary moment, including the time in which the machine was suspended."""


class Lease:
    """The pings of a stream, and the lease that the latest pong gave.

    Attributes:
        until: When the lease ends. Minus infinity without a lease.
        generation: The number of the current stream, or of the latest one if there is none.
        established: Whether the current stream has answered a ping.
        renewed_at: When the latest answered ping was sent.
        seconds: The length of the lease that the latest pong gave.
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
        """Start the next generation, because a new stream was opened. Return its number.

        The lease is over until this stream answers a ping.
        """
        self.end()
        self.generation += 1
        return self.generation

    def end(self) -> None:
        """End the lease, because the stream has ended."""
        self.until = -math.inf
        self.established = False
        self._unanswered.clear()

    def ping(self, now: float) -> int:
        """Return the unique id of a ping that is sent at `now` or later."""
        self._ping_id += 1
        self._unanswered[self._ping_id] = now
        return self._ping_id

    def pong(self, ping_id: int, seconds: float) -> bool:
        """Renew the lease from the time of the ping. Return False if the ping is unknown or the length is invalid."""
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
        """Return the seconds until the next ping, from a random number between 0 and 1."""
        return self.seconds / PINGS_PER_LEASE * (1 - JITTER * random)

    def is_stale(self, now: float) -> bool:
        """Say whether a ping has waited too long for its pong, so that the stream must be replaced."""
        oldest = next(iter(self._unanswered.values()), None)
        return oldest is not None and now - oldest > max(STALE_AFTER_SECONDS, 2 * self.seconds)
