import asyncio

from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.store import dialect


async def connected(engine: AsyncEngine, seconds: float | None = None) -> AsyncConnection:
    """Return a connection from an engine's pool, opened if need be.

    Opening is not cancelled with whoever waits for it: drivers lose sight of a connection that is given up
    halfway. What nobody waits for any more goes back to the pool.

    Args:
        engine: Whose.
        seconds: How long to wait, in the pool's queue and for the engine; WAIT_SECONDS where it is None.

    Raises:
        SQLAlchemyError: If there is none in time.
    """
    opening = asyncio.ensure_future(engine.connect().start())
    try:
        async with asyncio.timeout(dialect.WAIT_SECONDS if seconds is None else seconds):
            return await asyncio.shield(opening)
    except TimeoutError:
        opening.add_done_callback(_give_back)
        raise NoConnection("no connection was to be had in time") from None
    except asyncio.CancelledError:
        opening.add_done_callback(_give_back)
        raise


def _give_back(opening: "asyncio.Future[AsyncConnection]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        closing = asyncio.ensure_future(opening.result().close())
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)


_CLOSING: set["asyncio.Future[None]"] = set()
