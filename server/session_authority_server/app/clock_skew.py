import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import (
    TOLERATED_SKEW,
    Clock,
    DatabaseClock,
    SystemClock,
    elapsed_seconds,
)
from session_authority_server.domain.errors import ClockWrong, StoreUnavailable
from session_authority_server.observability.metrics import CLOCK_SKEW
from session_authority_server.store.database import Database

CHECK_SECONDS = 1.0
MEASURE_SECONDS = 5.0
WORTH_A_WARNING = TOLERATED_SKEW / 2
# Before a server serves, it measures the database's time until the uncertainty is small, at most this many times.
_MAX_FIRST_MEASUREMENTS = 5
_SMALL_UNCERTAINTY_SECONDS = 0.02

_log = logging.getLogger(__name__)


class ClockSkew:
    """Compares the machine's clock with the database's, which all servers share.

    Attributes:
        clock: The clock to take the time from: the database's on PostgreSQL, the machine's on SQLite.
        is_given: Whether the constructor received the clock, which is then trusted.
        wrong: The error that describes a wrong clock, by the latest comparison; None if the clock is right.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        """Prepare to compare the clocks.

        Args:
            database: The database whose clock is compared.
            clock: A clock to trust without comparison, for tests.
        """
        self._database = database
        self._statement = None if clock else database.dialect.time_query
        self.wrong: ClockWrong | None = None
        self._database_clock = DatabaseClock()
        self.is_given = clock is not None
        self.clock: Clock = clock or (self._database_clock if self._statement else SystemClock())

    async def settle(self) -> None:
        """Measure the database's time before anything depends on it.

        Raises:
            StoreUnavailable: If the database doesn't answer.
        """
        remaining = 0 if self._statement is None else _MAX_FIRST_MEASUREMENTS
        while remaining and self._database_clock.uncertainty_seconds > _SMALL_UNCERTAINTY_SECONDS:
            await self.measure()
            remaining -= 1

    async def measure(self) -> timedelta:
        """Ask the database for its time, and update `wrong`.

        Return the smallest possible difference between the two clocks. It is positive if the machine's clock is ahead,
        and negative if it is behind. The real difference may be larger, because the answer takes time. With SQLite,
        return zero: both are the same clock.

        Raises:
            StoreUnavailable: If the database doesn't answer.
        """
        if self._statement is None:
            return timedelta(0)
        statement = text(self._statement)

        async def ask(connection: AsyncConnection) -> tuple[datetime, float, float]:
            asked_at = elapsed_seconds()
            database_time: datetime = (await connection.execute(statement)).scalar_one()
            return database_time, asked_at, elapsed_seconds()

        self._database_clock.learn(*await self._database.read(ask))
        # Update `wrong` now, since calls already use the new measurement.
        self.wrong = self._find_skew()
        return self._database_clock.skew()

    async def require_right_clock(self) -> None:
        """Compare the machine's clock with the database's, now.

        Raises:
            ClockWrong: If the clocks differ by more than TOLERATED_SKEW.
            StoreUnavailable: If the database doesn't answer.
        """
        await self.measure()
        self.refuse_if_wrong()

    def refuse_if_wrong(self) -> None:
        """Raise an error if the latest comparison showed that the machine's clock is wrong.

        Raises:
            ClockWrong: If the clock is wrong.
        """
        if self.wrong is not None:
            raise self.wrong

    async def watch(self, set_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Compare the clocks repeatedly, export the skew, and log when it becomes large.

        The database is asked for its time every 5 seconds. Between two answers, the monotonic clock advances this
        time. The machine's clock is compared with it every second.

        Args:
            set_serving: Called with False when the server must stop serving, and with True when it may serve again.
        """
        CLOCK_SKEW.set(0)
        if self._statement is None:
            return
        if self.wrong is not None:
            self._log_change()
        measure_at = 0.0
        is_near, served = False, self.wrong is None
        while True:
            if elapsed_seconds() >= measure_at:
                with contextlib.suppress(StoreUnavailable):  # already logged by the store
                    await self.measure()
                measure_at = elapsed_seconds() + MEASURE_SECONDS
            self.wrong = self._find_skew()
            serves = self.wrong is None
            if serves != served:
                self._log_change()
                await set_serving(serves)
            served = serves
            skew = self._skew()
            if not is_near and self.wrong is None and abs(skew) >= WORTH_A_WARNING:
                _log.warning("%s; synchronize both clocks by NTP", _distance(skew))
            is_near = abs(skew) >= WORTH_A_WARNING
            CLOCK_SKEW.set(skew.total_seconds())
            await asyncio.sleep(CHECK_SECONDS)

    def _log_change(self) -> None:
        if self.wrong is None:
            _log.warning("this machine's clock is right again; serving")
        else:
            _log.error("stopped serving: %s; synchronize the clocks by NTP", self.wrong)

    def _skew(self) -> timedelta:
        return timedelta(0) if self._statement is None else self._database_clock.skew()

    def _find_skew(self) -> ClockWrong | None:
        skew = self._skew()
        if abs(skew) <= TOLERATED_SKEW:
            return None
        return ClockWrong(f"{_distance(skew)}; the limit is {TOLERATED_SKEW.total_seconds():g} s")


def _distance(skew: timedelta) -> str:
    side = "ahead of" if skew > timedelta(0) else "behind"
    return f"this machine's clock is {abs(skew.total_seconds()):.1f} s {side} the database's"
