"""Time limits for connecting to an engine and for its work."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.store.engine.dialect import Dialect

T = TypeVar("T")
# The number of connections that read for validation. Other reads have the same number of connections.
READERS = 4
# The longest wait for a free connection, and the longest work of the engine after it. Together they are shorter
# than the default deadline of a call (5 s).
WAIT_SECONDS = 2.0
WORK_SECONDS = 2.0
# After an interrupt, the engine has GIVE_UP_SECONDS to stop before its connection is cut off. LAST_RESORT_SECONDS
# after the interrupt, the caller gets an error in any case.
GIVE_UP_SECONDS = 0.25
LAST_RESORT_SECONDS = 2.0

_CLOSING: set["asyncio.Future[None]"] = set()


async def connect(engine: AsyncEngine, seconds: float | None = None) -> AsyncConnection:
    """Return a connection from an engine's pool. Open one if necessary.

    If the caller is cancelled, the opening continues and the connection goes to the pool. Drivers leak a connection
    whose opening is cancelled.

    Args:
        engine: The engine.
        seconds: The longest wait, for the pool and for the engine together; WAIT_SECONDS if None.

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
    """Wait for work on a driver's connection, and interrupt the work if it takes too long.

    This function interrupts the engine, because cancelling the task would abandon the statement. The statement would
    keep its locks and leave its connection in an unknown state.

    Args:
        dialect: The engine's dialect.
        driver: The driver's connection.
        work: The work, which uses this connection alone.
        seconds: The time limit; WORK_SECONDS if None.

    Raises:
        SQLAlchemyError: If the engine ignored the interrupt.
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
        ):  # Expires only if the engine ignores the interrupt.
            return await work
    except TimeoutError:
        raise NoConnection("the engine did not answer in time") from None
    finally:
        timer.cancel()
        if stopping is not None:
            ended.set()
            await stopping  # A late interrupt would hit the connection's next statement.


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
