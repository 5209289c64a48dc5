"""Validations that are under way, and the changes that overtake them.

A change that arrives while a validation is in flight wins, because the answer may have been made before it. Which
session or user an answer is about is known only when it arrives, so what has changed is remembered for as long
as a validation is in flight that was sent before.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

CHANGES_LIMIT = 100_000
"""Beyond as many remembered changes, every answer in flight is discarded instead."""

Subject: TypeAlias = bytes | str | tuple[str]
"""What a change is about: the key of a token, the id of a session, or (the id of a user,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """One call that validates.

    Attributes:
        generation: The stream's that had answered a ping when the call was sent; None without one.
        sent_at: When, by the clock of the lease.
        wall_time: When, by the wall clock.
        since: How many changes had been remembered by then.
    """

    generation: int | None
    sent_at: float
    wall_time: float
    since: int


class Flights:
    """The validations in flight."""

    def __init__(self, changes_limit: int = CHANGES_LIMIT) -> None:
        self._changes_limit = changes_limit
        self._open: dict[Flight, None] = {}
        self._count = 0
        self._everything_at = 0
        self._changes: OrderedDict[Subject, int] = OrderedDict()

    def begin(self, generation: int | None, now: float, wall_time: float) -> Flight:
        """Note that a call is about to be sent."""
        flight = Flight(generation, now, wall_time, self._count)
        self._open[flight] = None
        return flight

    def end(self, flight: Flight) -> None:
        """Forget a call, and the changes that concern no other one."""
        self._open.pop(flight, None)
        oldest = next(iter(self._open), None)
        if oldest is None:
            self._changes.clear()
            return
        while self._changes and next(iter(self._changes.values())) <= oldest.since:
            self._changes.popitem(last=False)

    def invalidate(self, subjects: Iterable[Subject]) -> None:
        """Note what has changed."""
        if not self._open:
            return
        self._count += 1
        for subject in subjects:
            self._changes[subject] = self._count
            self._changes.move_to_end(subject)
        if len(self._changes) > self._changes_limit:
            self.invalidate_all()

    def invalidate_all(self) -> None:
        """Note that everything may have changed."""
        self._count += 1
        self._everything_at = self._count
        self._changes.clear()

    def is_invalidated(self, flight: Flight, subjects: Iterable[Subject]) -> bool:
        """Say whether any of an answer's subjects has changed since its call was sent."""
        return self._everything_at > flight.since or any(
            self._changes.get(subject, 0) > flight.since for subject in subjects
        )
