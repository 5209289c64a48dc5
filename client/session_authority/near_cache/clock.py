"""The two clocks of the near cache: one for the lease, and the wall clock for times that sessions end at."""

import math
import sys
import time
from collections.abc import Callable
from functools import partial


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

wall_clock: Callable[[], float] = time.time
"""Seconds since 1970, as this machine believes."""
