import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from session_authority_server.domain.clock import Clock

PER_SECOND = 10
"""The most lines of one kind that are written in a second."""

Kind = TypeVar("Kind", bound=Hashable)


@dataclass(slots=True)
class Suppressed:
    """The lines of one kind that were not written.

    Attributes:
        since: The time of the first of them.
        since_elapsed: The same time in seconds of the monotonic clock.
        count: Their number.
    """

    since: datetime
    since_elapsed: float
    count: int = 0


class FloodLimit(Generic[Kind]):
    """Admits at most PER_SECOND lines of each kind per second, and counts the others. Not thread-safe."""

    def __init__(self, clock: Clock, elapsed: Callable[[], float] = time.monotonic) -> None:
        """Start to count lines.

        Args:
            clock: Gives the times of lines that are not written.
            elapsed: Returns the seconds of a monotonic clock.
        """
        self._clock = clock
        self._elapsed = elapsed
        self._second_began = elapsed()
        self._admitted: dict[Kind, int] = {}
        self._suppressed: dict[Kind, Suppressed] = {}

    def __bool__(self) -> bool:
        """Return whether `take` would return any lines."""
        return bool(self._suppressed)

    def admits(self, kind: Kind) -> bool:
        """Return whether to write a line now. Count the line if not."""
        now = self._elapsed()
        if now - self._second_began >= 1:
            self._second_began = now
            self._admitted.clear()
        admitted = self._admitted[kind] = self._admitted.get(kind, 0) + 1
        if admitted <= PER_SECOND:
            return True
        self.count_suppressed(kind)
        return False

    def count_suppressed(self, kind: Kind) -> None:
        """Count a line that is not written."""
        suppressed = self._suppressed.get(kind)
        if suppressed is None:
            suppressed = self._suppressed[kind] = Suppressed(self._clock.now(), self._elapsed())
        suppressed.count += 1

    def take(
        self, is_due: Callable[[Kind, float], bool] = lambda _kind, _age_seconds: True
    ) -> dict[Kind, Suppressed]:
        """Return the counts of lines that were not written, and reset these counts.

        Args:
            is_due: Selects kinds, given a kind and the seconds since its first omitted line.
        """
        now = self._elapsed()
        taken = {
            kind: each
            for kind, each in self._suppressed.items()
            if is_due(kind, now - each.since_elapsed)
        }
        for kind in taken:
            del self._suppressed[kind]
        return taken
