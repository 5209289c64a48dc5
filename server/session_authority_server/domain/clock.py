import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# How far a server's clock may be from the database's. Beyond it, the server stops serving.
TOLERATED_SKEW = timedelta(seconds=1)
# For how long a step of the machine's clock must last before it is believed.
STEP_ACCEPTED_AFTER = timedelta(minutes=1)

_TOLERATED_SECONDS = TOLERATED_SKEW.total_seconds()
_ACCEPTED_AFTER_SECONDS = STEP_ACCEPTED_AFTER.total_seconds()
# How fast two clocks drift apart at most, as a part of the time that passes.
_DRIFT = 2e-4
_NEVER_SET_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Where every part of the authority takes the time from."""

    def now(self) -> datetime:
        """Return the present moment in UTC.

        It is earlier than a moment returned before only if that moment was wrong by more than TOLERATED_SKEW.
        """
        ...


def elapsed_seconds() -> float:
    """Return the time since some fixed moment, by a clock that is never set and that counts suspend."""
    return time.clock_gettime(_NEVER_SET_CLOCK)


class SystemClock:
    """The machine's clock, without its short jumps.

    A step of more than TOLERATED_SKEW is followed once it has lasted STEP_ACCEPTED_AFTER. Until then, this clock
    advances with the monotonic clock. If the machine's clock is set back by less, this clock stands still until
    the machine has caught up.
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
        if abs(step - self._step) > _TOLERATED_SECONDS:  # another step than the last time
            self._step, self._stepped_at = step, elapsed
        return elapsed - self._stepped_at >= _ACCEPTED_AFTER_SECONDS


class DatabaseClock:
    """The database's clock, estimated from the database's answers.

    Advances with the monotonic clock between answers. It is never behind the database's clock, and ahead of it by
    `uncertainty_seconds` at most.
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
        """Take an answer of the database into account.

        An answer bounds the database's time from both sides, however slow it was. What was known before counts
        too, as long as the answer does not contradict it.

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
        """Return how far the machine's clock is certainly ahead of the database's; negative if it is behind."""
        ahead = datetime.now(UTC).timestamp() - elapsed_seconds() - self._offset
        if ahead < 0:
            ahead = min(ahead + self.uncertainty_seconds, 0.0)
        return timedelta(seconds=ahead)


class ManualClock:
    """A clock that stands still until it is moved: for tests and demonstrations."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move on by a duration that is not negative."""
        if by < timedelta(0):
            raise ValueError("a clock never goes backwards")
        self._now += by
