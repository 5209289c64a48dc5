"""Telling the audit log of what happened, once it has."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import Event
from session_authority_server.store.protocol import SessionStore, Transaction

T = TypeVar("T")
Told = tuple[T, Sequence[Event]]

# What `Audit.room` makes room for.
EVENTS_AT_ONCE = 2_000


class Audit(Protocol):
    """Where events are told."""

    def record(self, *events: Event) -> None:
        """Tell of events that have been committed, in order. Never waits and never raises."""
        ...

    async def room(self) -> None:
        """Wait until EVENTS_AT_ONCE can be recorded without loss, but not for longer than some seconds.

        For upkeep, which can wait. A call never does.
        """
        ...


class _Nowhere:
    def record(self, *events: Event) -> None:
        pass

    async def room(self) -> None:
        pass


NOWHERE: Final[Audit] = _Nowhere()


async def transact(
    store: SessionStore, audit: Audit, work: Callable[[Transaction], Awaitable[Told[T]]]
) -> T:
    """Run work in one transaction and return its result; its events are told when it has been committed.

    They are told even where whoever waits for the result has gone, and never where the store failed.

    Raises:
        StoreUnavailable: If the store failed.
    """
    with telling(audit):
        result, _ = await store.transact(work, lambda done: audit.record(*done[1]))
    return result


@contextmanager
def telling(audit: Audit) -> Iterator[None]:
    """Tell of the credential with which somebody tried to prove a session in vain."""
    try:
        yield
    except SessionNotLive as error:
        if error.rejected is not None:
            audit.record(error.rejected)
        raise
