"""The interface of the outbox: the events that wait for receivers.

A transaction that changes sessions also writes its events, and only those that a receiver wants. Each method here is
one small step that is safe to repeat and to interrupt. Each raises StoreUnavailable if the store failed.

Every store passes the tests in `tests/contract/`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from session_authority_server.domain.receiver import Delivery, EventType, Receiver, ReceiverState


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events that wait for a receiver.

    Attributes:
        state: The state of the receiver.
        pending: How many events wait.
        oldest: When the oldest of them was written; None if none waits.
    """

    state: ReceiverState
    pending: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a test event.

    Attributes:
        delivered: Whether it was delivered.
        attempts: How many deliveries have failed.
        problem: Why the last delivery to the receiver failed.
    """

    delivered: bool
    attempts: int
    problem: str


class Outbox(Protocol):
    """The outbox as the workers use it.

    A lease lets one worker deliver the events of a receiver. `settle`, `postpone` and `park` do nothing if another
    worker holds the lease.
    """

    async def lease(self, worker_id: UUID, now: datetime, seconds: float) -> Sequence[Receiver]:
        """Take or renew the lease of every active receiver that no other worker holds. Return these receivers."""

    async def release(self, worker_id: UUID) -> None:
        """Give all leases of a worker back."""

    async def due(
        self, receiver_id: UUID, now: datetime, limit: int, busy_users: Collection[str] = ()
    ) -> Sequence[Delivery]:
        """Return events to deliver now, at most `limit`. The events of the same user come in their order.

        * Leaves out an event if an earlier event of the same user waits for a later time.
        * Leaves out the events of `busy_users`, whose earlier events are being delivered.
        """

    async def settle(
        self, receiver_id: UUID, worker_id: UUID, delivered: Sequence[int], now: datetime
    ) -> None:
        """Record that the events with these sequences were delivered."""

    async def postpone(
        self,
        receiver_id: UUID,
        worker_id: UUID,
        sequence: int,
        due_time: datetime,
        problem: str,
        now: datetime,
    ) -> None:
        """Record that a delivery failed. The event and the user's later events wait until `due_time`."""

    async def park(self, receiver_id: UUID, worker_id: UUID, problem: str, now: datetime) -> bool:
        """Stop the delivery to an active receiver until an operator resumes it. Return whether it was stopped."""

    async def drop_excess(self, limit: int) -> Mapping[str, int]:
        """Drop the oldest events of each receiver beyond `limit` waiting ones. Return the names, and how many each.

        Needs no lease. Events are dropped in batches, so a call may leave some for the next one.
        """

    async def purge_delivered(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` events that were delivered before a time. Return how many were deleted."""

    async def purge_removed(self, removed_before: datetime, limit: int) -> int:
        """Delete at most `limit` events of removed receivers. Return how many were deleted.

        Then delete the receivers that were removed before a time and have no events left.
        """

    async def backlogs(self, limit: int) -> Mapping[str, Backlog]:
        """Return the backlog of each receiver that is not removed, by its name. Counting stops at `limit` events."""


class ReceiverStore(Protocol):
    """Keeps the receivers, for operators and for the processes that write events."""

    async def wanted(self) -> frozenset[EventType]:
        """Return the types that any receiver wants, and EventType.TEST if there is any receiver.

        Receivers that were removed recently count, because their events may not be deleted yet.
        """

    async def read_receivers(self) -> Sequence[Receiver]:
        """Return the receivers that are not removed, the oldest first."""

    async def add_receiver(self, receiver: Receiver, start_time: datetime) -> bool:
        """Add a receiver of the events that are written from a time on. Return False if the name is taken."""

    async def set_state(self, receiver_id: UUID, state: ReceiverState) -> bool:
        """Set the state of a receiver that is not removed. Return False if there is no such receiver."""

    async def remove_receiver(self, receiver_id: UUID, now: datetime) -> bool:
        """Remove a receiver. Return False if there is no such receiver."""

    async def rotate_key(self, receiver_id: UUID, generation: int, now: datetime) -> bool:
        """Begin the next generation of a receiver's key, unless the present one is not `generation`."""

    async def add_test(self, receiver_id: UUID, event_id: UUID, payload: str, now: datetime) -> int:
        """Add a test event for one receiver, due before all its other events. Return its sequence."""

    async def read_test(self, sequence: int) -> Outcome | None:
        """Return the outcome of a test event; None if it was deleted."""

    async def hurry(self, receiver_id: UUID, now: datetime, limit: int) -> int:
        """Make at most `limit` events of a receiver due that wait for a later time. Return how many.

        They count as if no delivery had failed.
        """

    async def replay(
        self, receiver_id: UUID, since: datetime, now: datetime, after: int, limit: int
    ) -> Sequence[int]:
        """Make at most `limit` delivered events due again, the oldest first. Return their sequences.

        Affects events that were written since a time and have sequences over `after`.
        """
