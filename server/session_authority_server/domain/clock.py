import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where every part of the authority takes the time from."""

    def now(self) -> datetime:
        """Return the present moment in UTC. Never earlier than a moment returned before."""
        ...


class SystemClock:
    """The machine's clock. Set back, it goes on at the speed of time until the machine has caught up."""

    def __init__(self) -> None:
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._measured = 0.0

    def now(self) -> datetime:
        now, measured = datetime.now(UTC), time.monotonic()
        if now < self._latest:
            now = self._latest + timedelta(seconds=measured - self._measured)
        self._latest, self._measured = now, measured
        return now


class ManualClock:
    """A clock that stands still until it is told to move: for tests and demonstrations."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move on by a duration that is not negative."""
        if by < timedelta(0):
            raise ValueError("a clock never goes backwards")
        self._now += by
