"""Builds the upkeep jobs for a store. The server loads this module by name."""

from datetime import timedelta
from typing import TYPE_CHECKING

from session_authority_server.background.right_clock import RightClock
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.ports.outbox import Outbox
from session_authority_server.ports.store import Audit, SessionStore
from session_authority_server.ports.upkeep import UpkeepStore
from session_authority_workers import schedule as schedules
from session_authority_workers.deliver import Deliver, senders
from session_authority_workers.expire import Expire
from session_authority_workers.keep_outbox import KeepOutbox
from session_authority_workers.purge import Erase, Partition, Purge

if TYPE_CHECKING:
    from session_authority_server.background.event_transmitter import EventTransmitter


def jobs(
    store: UpkeepStore,
    sessions: SessionStore,
    outbox: Outbox,
    clock: Clock,
    policy: Policy,
    audit: Audit,
    outbox_limit: int,
) -> tuple[Expire, Erase, Partition, Purge, KeepOutbox]:
    """Return the jobs in the order in which they must run."""
    return (
        Expire(store, clock, audit=audit),
        Erase(store, sessions),
        Partition(store, clock, policy),
        Purge(store, clock, policy),
        KeepOutbox(outbox, clock, outbox_limit),
    )


def schedule(
    found: tuple[Expire, Erase, Partition, Purge, KeepOutbox],
    clock: Clock,
    interval: timedelta,
    right_clock: RightClock | None,
) -> schedules.Schedule:
    """Return the schedule of all jobs."""
    expire, *others = found
    return schedules.Schedule(expire, others, clock, interval, right_clock)


def deliveries(
    outbox: Outbox,
    clock: Clock,
    right_clock: RightClock | None,
    event_key: bytes,
    transmitter: "EventTransmitter | None",
    *,
    may_be_private: bool,
) -> Deliver:
    """Return the deliveries of events to receivers."""
    open_sender = senders(event_key, transmitter, may_be_private=may_be_private)
    return Deliver(outbox, clock, open_sender, right_clock)


async def watch_sessions(store: UpkeepStore, clock: Clock) -> None:
    """Export the backlog and the number of live sessions, until cancelled."""
    await schedules.watch_sessions(store, clock)
