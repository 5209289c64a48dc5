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
from session_authority_server.observability.metrics import CLOCK_SKEW_SECONDS
from session_authority_server.store.database import Database

CHECK_SECONDS = 1.0
MEASURE_SECONDS = 5.0
WORTH_A_WARNING = TOLERATED_SKEW / 2
# Before it serves, a server asks up to this many times, until an answer is this quick.
_FIRST_QUESTIONS = 5
_QUICK_SECONDS = 0.02

_log = logging.getLogger(__name__)


class ClockSkew:
    """How far the machine's clock is from the database's, which all servers share.

    Attributes:
        clock: The clock to take the time from: the database's on PostgreSQL, the machine's on SQLite.
        is_given: Whether the clock was given. It is then taken as right.
        wrong: Why the machine's clock is wrong, by the latest comparison; None if it is right.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        """Compare clocks for one process.

        Args:
            database: Whose clock to compare with.
            clock: Taken as right and compared with nothing, for tests that move it.
        """
        self._database = database
        self._statement = None if clock else database.dialect.time_query
        self.wrong: ClockWrong | None = None
        self._database_clock = DatabaseClock()
        self.is_given = clock is not None
        self.clock: Clock = clock or (self._database_clock if self._statement else SystemClock())

    async def settle(self) -> None:
        """Learn the database's time before anything depends on it.

        Raises:
            StoreUnavailable: If the database doesn't answer.
        """
        questions = 0 if self._statement is None else _FIRST_QUESTIONS
        while questions and self._database_clock.uncertainty_seconds > _QUICK_SECONDS:
            await self.measure()
            questions -= 1

    async def measure(self) -> timedelta:
        """Ask the database for its time, and return how far the machine's clock is certainly ahead of it.

        With SQLite both are the same clock.

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
        # At once: calls already get the time that was just learned.
        self.wrong = self._find_skew()
        return self._database_clock.skew()

    async def require_right_clock(self) -> None:
        """Compare the machine's clock with the database's, now.

        Raises:
            ClockWrong: If they differ by more than TOLERATED_SKEW.
            StoreUnavailable: If the database doesn't answer.
        """
        await self.measure()
        self.refuse_if_wrong()

    def refuse_if_wrong(self) -> None:
        """Refuse a call as long as the latest comparison found the machine's clock wrong.

        Raises:
            ClockWrong: If it did.
        """
        if self.wrong is not None:
            raise self.wrong

    async def watch(self, set_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Compare the clocks again and again, export the skew, and log when it becomes large.

        The machine's clock is compared every second. The database is asked less often: between its answers, its
        clock is advanced with the monotonic clock.

        Args:
            set_serving: Called with whether this server can serve, whenever that changes.
        """
        CLOCK_SKEW_SECONDS.set(0)
        if self._statement is None:
            return
        if self.wrong is not None:
            self._log_change()
        measure_at = 0.0
        is_near, served = False, self.wrong is None
        while True:
            if elapsed_seconds() >= measure_at:
                with contextlib.suppress(StoreUnavailable):  # the store has logged it
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
                _log.warning("%s; keep both by NTP", _distance(skew))
            is_near = abs(skew) >= WORTH_A_WARNING
            CLOCK_SKEW_SECONDS.set(skew.total_seconds())
            await asyncio.sleep(CHECK_SECONDS)

    def _log_change(self) -> None:
        if self.wrong is None:
            _log.warning("this machine's clock is right again; serving")
        else:
            _log.error("stopped serving: %s; set the clock by NTP", self.wrong)

    def _skew(self) -> timedelta:
        return timedelta(0) if self._statement is None else self._database_clock.skew()

    def _find_skew(self) -> ClockWrong | None:
        skew = self._skew()
        if abs(skew) <= TOLERATED_SKEW:
            return None
        return ClockWrong(
            f"{_distance(skew)}, which is more than the {TOLERATED_SKEW.total_seconds():g} s that are tolerated"
        )


def _distance(skew: timedelta) -> str:
    side = "ahead of" if skew > timedelta(0) else "behind"
    return f"this machine's clock is {abs(skew.total_seconds()):.1f} s {side} the database's"
