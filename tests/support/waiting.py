"""Waiting for a condition, which a busy machine may take long to bring about."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds. It fails if that takes too long."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at, "the condition never held"
        time.sleep(0.02)


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Let other tasks run until a condition holds. It fails if that takes too long."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at, "the condition never held"
        await asyncio.sleep(0.005)
