import asyncio
import logging
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.metrics import CLOCK_SKEW_SECONDS
from session_authority_server.store.database import Database

INTERVAL_SECONDS = 30.0
# A fifth of what sign-ins and the worker allow for (`policy.CLOCK_SKEW_ALLOWANCE`).
WORTH_A_WARNING = timedelta(seconds=1)

_log = logging.getLogger(__name__)


class ClockSkew:
    """How far this process's clock is ahead of the database's, which is the same for all servers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def watch(self) -> None:
        """Measure and export it again and again, and warn while it is large; never returns."""
        while True:
            try:
                skew = await self.measure()
            except StoreUnavailable:
                pass  # which the log was told already
            else:
                CLOCK_SKEW_SECONDS.set(skew.total_seconds())
                if abs(skew) >= WORTH_A_WARNING:
                    _log.warning(
                        "this machine's clock is %.1f s ahead of the database's; keep both by NTP",
                        skew.total_seconds(),
                    )
            await asyncio.sleep(INTERVAL_SECONDS)

    async def measure(self) -> timedelta:
        """Return how far the clock is ahead, to within half of what the question takes.

        Raises:
            StoreUnavailable: If the database doesn't answer.
        """
        statement = self._database.dialect.tell_time
        if statement is None:
            return timedelta(0)

        async def ask(connection: AsyncConnection) -> timedelta:
            before = self._clock.now()
            theirs = (await connection.execute(text(statement))).scalar_one()
            after = self._clock.now()
            skew: timedelta = before + (after - before) / 2 - theirs
            return skew

        return await self._database.read(ask)
