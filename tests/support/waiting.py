"""Functions that wait for a condition, with enough time for a busy machine."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds, and fail after `seconds`."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at, "the condition never held"
        time.sleep(0.02)


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Run other tasks until a condition holds, and fail after `seconds`."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at, "the condition never held"
        await asyncio.sleep(0.005)
