"""Load the upkeep jobs of a database from the package `session_authority_workers`.

`session_authority_workers` imports the server's package. To avoid an import cycle, this module loads it by name.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol

import structlog

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.event_key import event_key
from session_authority_server.app.event_transmitter import read_transmitter
from session_authority_server.background.right_clock import RightClock
from session_authority_server.config import Settings
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.ports.store import NO_AUDIT, Audit
from session_authority_server.store.database import Database
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore

_log = structlog.get_logger("session_authority")


class Job(Protocol):
    """One upkeep job.

    Attributes:
        name: The job's name in logs, metrics and on the command line.
    """

    name: str

    async def __call__(self, progress: Callable[[int], None] = ...) -> int:
        """Work until nothing is due, and return how many rows changed."""
        ...

    async def count(self, limit: int) -> int:
        """Return how many rows are due. Stop counting at about the limit."""
        ...


class Schedule(Protocol):
    """Runs the jobs periodically, or delivers events."""

    def start(self) -> None:
        """Run every job now, and then periodically."""
        ...

    async def stop(self) -> None:
        """Start no more runs, and stop the current runs after their batch."""
        ...


def jobs(
    database: Database,
    settings: Settings,
    clock: Clock,
    audit: Audit = NO_AUDIT,
    reporter: Reporter | None = None,
) -> Sequence[Job]:
    """Return the jobs of a database, in the order in which they must run."""
    found: Sequence[Job] = _workers().jobs(
        _store(database, settings, reporter),
        SqlSessionStore(database),
        SqlOutbox(database),
        clock,
        settings.policy,
        audit,
        settings.outbox_limit,
    )
    return found


def schedule(
    database: Database,
    settings: Settings,
    clock: Clock,
    audit: Audit = NO_AUDIT,
    right_clock: RightClock | None = None,
    reporter: Reporter | None = None,
) -> Schedule:
    """Return the schedule of a database's jobs."""
    interval = timedelta(seconds=settings.worker_interval_seconds)
    made: Schedule = _workers().schedule(
        jobs(database, settings, clock, audit, reporter), clock, interval, right_clock
    )
    return made


@contextlib.asynccontextmanager
async def working(
    database: Database,
    settings: Settings,
    clock: Clock,
    audit: Audit,
    right_clock: RightClock | None,
    reporter: Reporter,
) -> AsyncIterator[None]:
    """Run the jobs periodically, and deliver events.

    Raises:
        CannotStart: If the key of events can't be read or made, or the keys of security events can't be used.
    """
    running = [
        schedule(database, settings, clock, audit, right_clock, reporter),
        *await _deliveries(database, settings, clock, right_clock),
    ]
    for each in running:
        each.start()
    try:
        yield
    finally:
        for each in running:
            await each.stop()


async def _deliveries(
    database: Database, settings: Settings, clock: Clock, right_clock: RightClock | None
) -> Sequence[Schedule]:
    """Return the deliveries of events; none without a key, because events could not be signed."""
    key = event_key(settings, make=True)
    if key is None:
        if await SqlReceiverStore(database).read_receivers():
            _log.error("no events are delivered, because SESSION_AUTHORITY_EVENT_KEY is not set")
        return ()
    made: Schedule = _workers().deliveries(
        SqlOutbox(database),
        clock,
        right_clock,
        key,
        read_transmitter(settings),
        may_be_private=settings.receivers_may_be_private,
    )
    return (made,)


def watch_sessions(
    database: Database, settings: Settings, clock: Clock
) -> Coroutine[Any, Any, None]:
    """Return a loop that exports the number of live sessions, and how long overdue sessions have waited."""
    loop: Coroutine[Any, Any, None] = _workers().watch_sessions(_store(database, settings), clock)
    return loop


def right_clock(database: Database, skew: ClockSkew) -> RightClock | None:
    """Return the check that pauses upkeep while the clock may be wrong; None if a test set the clock."""
    if skew.is_given:
        return None
    return RightClock(SqlUpkeepStore(database), skew.clock, skew.require_right_clock)


def erases_at_end(policy: Policy) -> bool:
    """Return whether addresses are erased when a session ends."""
    return policy.erase_addresses is EraseAddresses.AT_END


def _store(
    database: Database, settings: Settings, reporter: Reporter | None = None
) -> SqlUpkeepStore:
    erases = erases_at_end(settings.policy)
    return SqlUpkeepStore(database, erases_at_end=erases, reporter=reporter)


def _workers() -> Any:
    return import_module("session_authority_workers.upkeep")
