import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from session_authority_server.domain.clock import TOLERATED_SKEW, Clock, elapsed_seconds
from session_authority_server.domain.errors import ClockWrong, StoreUnavailable
from session_authority_server.ports.upkeep import UpkeepStore

# If every server and worker was stopped for longer than this, the upkeep does not run until an operator confirms that
# the clock is right (`repair-clock`).
LONGEST_PAUSE = timedelta(days=1)
# How long the upkeep pauses after the clock was stepped. In this time, an operator can correct the clock.
STEADY_FOR = timedelta(minutes=10)
_NOTE_SECONDS = 60.0

_log = logging.getLogger(__name__)


class RightClock:
    """Stops the upkeep while the clock may be wrong, because what the upkeep ends or deletes can't be restored."""

    def __init__(
        self, store: UpkeepStore, clock: Clock, compare: Callable[[], Awaitable[None]]
    ) -> None:
        """Set up the checks of a clock.

        Args:
            store: Keeps the last time at which the clock was right.
            clock: The clock to check.
            compare: Raises ClockWrong if the machine's clock differs too much from the database's.
        """
        self._store = store
        self._clock = clock
        self._compare = compare
        self._offset: float | None = None
        self._stepped_at: float | None = None

    async def require(self) -> None:
        """Check the clock, and note its time in the store if it is right.

        The clock must agree with the database's clock, with the monotonic clock since the last call, and with the last
        noted time.

        Raises:
            ClockWrong: If the clock may be wrong.
            StoreUnavailable: If the store failed.
        """
        await self._compare()
        self._require_steady()
        now = self._clock.now()
        noted = await self._store.note_clock_time(now, LONGEST_PAUSE)
        if noted is not None and now - noted > LONGEST_PAUSE:
            raise ClockWrong(
                f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, and no server or worker has run since "
                f"{noted:%Y-%m-%d %H:%M} UTC; if the clock is right, run: session-authority repair-clock"
            )

    async def note_every_minute(self) -> None:
        """Check the clock every minute until cancelled, in a server that runs no upkeep itself."""
        while True:
            with contextlib.suppress(ClockWrong, StoreUnavailable):
                await self.require()
            await asyncio.sleep(_NOTE_SECONDS)

    def _require_steady(self) -> None:
        elapsed = elapsed_seconds()
        offset = self._clock.now().timestamp() - elapsed
        if self._offset is not None and abs(offset - self._offset) > TOLERATED_SKEW.total_seconds():
            self._stepped_at = elapsed
        self._offset = offset
        if self._stepped_at is None:
            return
        if elapsed - self._stepped_at < STEADY_FOR.total_seconds():
            minutes = STEADY_FOR.total_seconds() / 60
            raise ClockWrong(f"the clock was stepped less than {minutes:.0f} minutes ago")
        self._stepped_at = None
