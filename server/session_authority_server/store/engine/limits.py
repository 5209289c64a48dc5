"""How long a caller waits for a connection and for the engine, and what happens to work that takes longer."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.store.engine.dialect import Dialect

T = TypeVar("T")
# How many connections read, of each of the two kinds (validation and all else).
READERS = 4
# How long a caller waits for a free connection, and how long the engine may then work for the caller. Together
# they are less than the deadline that callers have by default.
WAIT_SECONDS = 2.0
WORK_SECONDS = 2.0
# How long the engine has to stop when it is asked to, and how long after that the caller gets an error anyway.
GIVE_UP_SECONDS = 0.25
LAST_RESORT_SECONDS = 2.0

_CLOSING: set["asyncio.Future[None]"] = set()


async def connect(engine: AsyncEngine, seconds: float | None = None) -> AsyncConnection:
    """Return a connection from an engine's pool, opened if need be.

    Cancelling the caller does not cancel the opening: drivers lose a connection that is given up halfway. The
    connection then goes back to the pool.

    Args:
        engine: The engine.
        seconds: How long to wait, in the pool's queue and for the engine; WAIT_SECONDS if None.

    Raises:
        SQLAlchemyError: If no connection is available in time.
    """
    opening = asyncio.ensure_future(engine.connect().start())
    try:
        async with asyncio.timeout(WAIT_SECONDS if seconds is None else seconds):
            return await asyncio.shield(opening)
    except TimeoutError:
        opening.add_done_callback(_return_to_pool)
        raise NoConnection("no connection was available in time") from None
    except asyncio.CancelledError:
        opening.add_done_callback(_return_to_pool)
        raise


async def within_time_limit(
    dialect: Dialect, driver: Any, work: Awaitable[T], seconds: float | None = None
) -> T:
    """Wait for work on a driver's connection, and make the work fail once it takes too long.

    The engine is interrupted instead of the task cancelled: an abandoned statement would go on holding its locks,
    and leave its connection in an unknown state.

    Args:
        dialect: The engine's dialect.
        driver: The driver's own connection.
        work: What to wait for.
        seconds: How long the work may take; WORK_SECONDS if None.
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
        async with asyncio.timeout(
            limit + LAST_RESORT_SECONDS
        ):  # if the engine ignored the interrupt
            return await work
    except TimeoutError:
        raise NoConnection("the engine did not answer in time") from None
    finally:
        timer.cancel()
        if stopping is not None:
            ended.set()
            await stopping  # or it would interrupt the connection's next user


async def _stop(dialect: Dialect, driver: Any, ended: asyncio.Event) -> None:
    await dialect.interrupt(driver)
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await ended.wait()
    except TimeoutError:
        dialect.cut_off(driver)


def _return_to_pool(opening: "asyncio.Future[AsyncConnection]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        closing = asyncio.ensure_future(opening.result().close())
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)
