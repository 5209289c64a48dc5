import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from sqlalchemy.exc import TimeoutError as NoAnswer

from session_authority_server.store.dialect import Dialect

T = TypeVar("T")
# How long the engine may work on what a caller waits for, and how long it has to give up then. With the wait
# for a connection before it, it is less than the deadline that callers have by default.
WORK_SECONDS = 2.0
GIVE_UP_SECONDS = 0.25
LAST_RESORT_SECONDS = 2.0


async def within_time_limit(
    dialect: Dialect, driver: Any, work: Awaitable[T], seconds: float | None = None
) -> T:
    """Wait for work on a driver's connection, which is made to fail once it takes too long.

    The engine is told, rather than the task cancelled: a statement that nobody waits for any more would go
    on holding its locks, on a connection in no known state.

    Args:
        dialect: Of the engine.
        driver: The driver's own connection.
        work: What to wait for.
        seconds: How long is too long; WORK_SECONDS where it is None.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    stopping: asyncio.Task[None] | None = None

    def stop() -> None:
        nonlocal stopping
        stopping = loop.create_task(_stop(dialect, driver, ended))

    limit = WORK_SECONDS if seconds is None else seconds
    timer = loop.call_later(limit, stop)
    try:
        async with asyncio.timeout(limit + LAST_RESORT_SECONDS):  # should nobody have heard
            return await work
    except TimeoutError:
        raise NoAnswer("the engine did not answer in time") from None
    finally:
        timer.cancel()
        if stopping is not None:
            ended.set()
            await stopping  # or it would meet whoever has the connection next


async def _stop(dialect: Dialect, driver: Any, ended: asyncio.Event) -> None:
    await dialect.interrupt(driver)
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await ended.wait()
    except TimeoutError:
        dialect.cut_off(driver)
