"""Builds the upkeep jobs for a store. The server loads this module by name."""

from datetime import timedelta

from session_authority_server.background.right_clock import RightClock
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.ports import Audit, SessionStore, UpkeepStore
from session_authority_workers import schedule as schedules
from session_authority_workers.expire import Expire
from session_authority_workers.purge import Erase, Partition, Purge


def jobs(
    store: UpkeepStore, sessions: SessionStore, clock: Clock, policy: Policy, audit: Audit
) -> tuple[Expire, Erase, Partition, Purge]:
    """Return the jobs in the order in which they must run."""
    return (
        Expire(store, clock, audit=audit),
        Erase(store, sessions),
        Partition(store, clock, policy),
        Purge(store, clock, policy),
    )


def schedule(
    store: UpkeepStore,
    sessions: SessionStore,
    clock: Clock,
    policy: Policy,
    audit: Audit,
    interval: timedelta,
    right_clock: RightClock | None,
) -> schedules.Schedule:
    """Return the schedule of all jobs."""
    expire, erase, partition, purge = jobs(store, sessions, clock, policy, audit)
    return schedules.Schedule(expire, [erase, partition, purge], clock, interval, right_clock)


async def watch_sessions(store: UpkeepStore, clock: Clock) -> None:
    """Export the backlog and the number of live sessions, until cancelled."""
    await schedules.watch_sessions(store, clock)
