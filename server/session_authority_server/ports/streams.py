"""The interface of the streams of security events, which are receivers that API keys own.

Each method raises StoreUnavailable if the store failed. Every store passes the tests in `tests/contract/`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from session_authority_server.domain.event_stream import EventStream


class EventStreamStore(Protocol):
    """Keeps the streams, at most one for each owner. To an owner, the streams of others do not exist."""

    async def add_stream(self, stream: EventStream, start_time: datetime, limit: int) -> bool:
        """Add a stream of the events that are written from a time on.

        Returns False if the owner has a stream.

        Raises:
            ReceiverLimitReached: If the authority has `limit` receivers.
        """

    async def read_stream(self, owner: str) -> EventStream | None:
        """Return the stream of an owner."""

    async def change_stream(
        self,
        stream_id: UUID,
        owner: str,
        change: Callable[[EventStream], EventStream],
        now: datetime,
        body: str | None = None,
    ) -> EventStream | None:
        """Change a stream in one transaction, and return the result. Return None if the owner has no such stream.

        Events that wait for a later time become due if the change enables the stream or changes its delivery.

        Args:
            stream_id: The stream.
            owner: Its owner.
            change: Returns the stream after the change, without changing its id, owner or time. May be called again,
                and may raise an error that ends the transaction.
            now: The present time.
            body: The body of an event about the stream to add; None for none.
        """

    async def remove_stream(self, stream_id: UUID, owner: str, now: datetime) -> bool:
        """Remove a stream. Return False if the owner has no such stream."""

    async def discard(self, stream_id: UUID, limit: int) -> int:
        """Delete at most `limit` waiting events of a stream. Return how many."""

    async def acknowledge(
        self, stream_id: UUID, events: Sequence[tuple[UUID, int]], now: datetime, problem: str = ""
    ) -> None:
        """Record that the receiver has taken events, which are named by their ids and sequences.

        Ignores other pairs than those of waiting events of the stream.

        Args:
            stream_id: The stream.
            events: The events.
            now: The present time.
            problem: Why the receiver rejected them; "" if it processed them.
        """
