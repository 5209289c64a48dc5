import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# The largest difference between a server's clock and the database's. Above it, the server stops serving.
TOLERATED_SKEW = timedelta(seconds=1)
# How long a step of the machine's clock must last before `SystemClock` follows it.
STEP_ACCEPTED_AFTER = timedelta(minutes=1)

_TOLERATED_SECONDS = TOLERATED_SKEW.total_seconds()
_ACCEPTED_AFTER_SECONDS = STEP_ACCEPTED_AFTER.total_seconds()
# The largest drift between two clocks, in seconds per second.
_DRIFT = 2e-4
_NEVER_SET_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """The source of time for every part of the authority."""

    def now(self) -> datetime:
        """Return the present time in UTC.

        It is earlier than a previous result only if that result was wrong by more than TOLERATED_SKEW.
        """
        ...


def elapsed_seconds() -> float:
    """Return the seconds since a fixed moment, from a clock that is never set and that counts suspended time."""
    return time.clock_gettime(_NEVER_SET_CLOCK)


class SystemClock:
    """The machine's clock, without its short jumps.

    A step of more than TOLERATED_SKEW is followed once it has lasted STEP_ACCEPTED_AFTER. Until then, this clock
    advances with the monotonic clock. If the machine's clock is set back by TOLERATED_SKEW or less, this clock
    stands still until the machine's clock has caught up.
    """

    def __init__(self) -> None:
        self._latest = datetime.now(UTC).timestamp()
        # The time is `elapsed_seconds()` plus this.
        self._offset = self._latest - elapsed_seconds()
        self._step = 0.0
        self._stepped_at = 0.0

    def now(self) -> datetime:
        wall, elapsed = datetime.now(UTC), elapsed_seconds()
        seconds = wall.timestamp()
        step = seconds - elapsed - self._offset
        if -_TOLERATED_SECONDS <= step <= _TOLERATED_SECONDS:
            self._offset += step
            self._step = 0.0
        elif self._is_step_accepted(step, elapsed):
            self._offset += step
            self._step = 0.0
            self._latest = seconds
            return wall
        else:
            seconds = elapsed + self._offset
            wall = datetime.fromtimestamp(seconds, UTC)
        if seconds < self._latest:
            return datetime.fromtimestamp(self._latest, UTC)
        self._latest = seconds
        return wall

    def _is_step_accepted(self, step: float, elapsed: float) -> bool:
        if abs(step - self._step) > _TOLERATED_SECONDS:  # the step has changed since the last call
            self._step, self._stepped_at = step, elapsed
        return elapsed - self._stepped_at >= _ACCEPTED_AFTER_SECONDS


class DatabaseClock:
    """An estimate of the database's clock, from the database's answers.

    Between answers it advances with the monotonic clock. It is never behind the database's clock, and at most
    `uncertainty_seconds` ahead of it.
    """

    def __init__(self) -> None:
        # The machine's time, until the first answer.
        self._latest = datetime.now(UTC).timestamp()
        self._answered = elapsed_seconds()
        # The time is `elapsed_seconds()` plus this.
        self._offset = self._latest - self._answered
        self.uncertainty_seconds = math.inf

    def now(self) -> datetime:
        seconds = elapsed_seconds() + self._offset
        if seconds < self._latest:
            seconds = self._latest
        self._latest = seconds
        return datetime.fromtimestamp(seconds, UTC)

    def learn(self, database_time: datetime, asked_at: float, answered_at: float) -> None:
        """Update the estimate with an answer of the database.

        Each answer gives a lower and an upper bound of the database's time. Earlier bounds remain valid unless the
        answer contradicts them.

        Args:
            database_time: The database's time, at some moment between `asked_at` and `answered_at`.
            asked_at: `elapsed_seconds()` before the question.
            answered_at: `elapsed_seconds()` after the answer.
        """
        earliest = database_time.timestamp() - answered_at
        latest = database_time.timestamp() - asked_at
        if self.uncertainty_seconds < math.inf:
            drift = (answered_at - self._answered) * _DRIFT
            known_earliest = max(earliest, self._offset - self.uncertainty_seconds - drift)
            known_latest = min(latest, self._offset + drift)
            if known_earliest <= known_latest:
                earliest, latest = known_earliest, known_latest
        self._offset, self._answered = latest, answered_at
        self.uncertainty_seconds = latest - earliest
        seconds = answered_at + latest
        if self._latest > seconds + _TOLERATED_SECONDS:  # the database's clock was set back
            self._latest = seconds

    def skew(self) -> timedelta:
        """Return how far, at least, the machine's clock is ahead of the database's. Negative if it is behind."""
        ahead = datetime.now(UTC).timestamp() - elapsed_seconds() - self._offset
        if ahead < 0:
            ahead = min(ahead + self.uncertainty_seconds, 0.0)
        return timedelta(seconds=ahead)


class ManualClock:
    """A clock for tests and demonstrations. Only `advance` moves it."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move the clock forward.

        Raises:
            ValueError: If the duration is negative.
        """
        if by < timedelta(0):
            raise ValueError("a clock never goes backwards")
        self._now += by
