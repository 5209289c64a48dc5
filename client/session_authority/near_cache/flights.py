"""Validations in flight, and the changes that overtake them.

If a change arrives while a validation is in flight, the answer may be older than the change, so it must not be cached.
The client learns the session and the user of a token only from the answer. It therefore remembers each change until
all validations that were sent before the change have ended.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

CHANGES_LIMIT = 100_000
"""If more changes than this are remembered, all are dropped, and no answer in flight is cached."""

Subject: TypeAlias = bytes | str | tuple[str]
"""The subject of a change: the key of a token, the id of a session, or (the id of a user,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """One validating call.

    Attributes:
        generation: The generation when the call was sent; None if its stream had not answered a ping yet.
        sent_at: When the call was sent, on the lease clock.
        wall_time: When the call was sent, on the wall clock.
        since: The number of changes that had been counted when the call was sent.
    """

    generation: int | None
    sent_at: float
    wall_time: float
    since: int


class Flights:
    """Remembers which validations are in flight, and which subjects changed meanwhile.

    The near cache asks it whether an answer may be cached.
    """

    def __init__(self, changes_limit: int = CHANGES_LIMIT) -> None:
        self._changes_limit = changes_limit
        self._open: dict[Flight, None] = {}
        self._count = 0
        self._everything_at = 0
        self._changes: OrderedDict[Subject, int] = OrderedDict()

    def begin(self, generation: int | None, now: float, wall_time: float) -> Flight:
        """Record that a call is about to be sent."""
        flight = Flight(generation, now, wall_time, self._count)
        self._open[flight] = None
        return flight

    def end(self, flight: Flight) -> None:
        """Remove a call, and the changes that no other call needs."""
        self._open.pop(flight, None)
        oldest = next(iter(self._open), None)
        if oldest is None:
            self._changes.clear()
            return
        while self._changes and next(iter(self._changes.values())) <= oldest.since:
            self._changes.popitem(last=False)

    def invalidate(self, subjects: Iterable[Subject]) -> None:
        """Record that these subjects have changed."""
        if not self._open:
            return
        self._count += 1
        for subject in subjects:
            self._changes[subject] = self._count
            self._changes.move_to_end(subject)
        if len(self._changes) > self._changes_limit:
            self.invalidate_all()

    def invalidate_all(self) -> None:
        """Record that everything may have changed."""
        self._count += 1
        self._everything_at = self._count
        self._changes.clear()

    def is_invalidated(self, flight: Flight, subjects: Iterable[Subject]) -> bool:
        """Say whether a subject of an answer has changed since its call was sent."""
        return self._everything_at > flight.since or any(
            self._changes.get(subject, 0) > flight.since for subject in subjects
        )
