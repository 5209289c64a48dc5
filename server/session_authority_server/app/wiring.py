"""Use-cases and upkeep, put together over a store."""

from datetime import timedelta

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.config import Settings
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.session import Session
from session_authority_server.observability.metrics import SUPERSEDED_TOKENS
from session_authority_server.store.database import Database
from session_authority_server.store.protocol import SessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.audit import NOWHERE, Audit
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.superseded import SupersededTokens
from session_authority_workers.erase import Erase
from session_authority_workers.expire import Expire
from session_authority_workers.partition import Partition
from session_authority_workers.purge import Purge
from session_authority_workers.right_clock import RightClock
from session_authority_workers.schedule import Schedule


def count_superseded(_session: Session) -> None:
    """Count the use of a superseded token."""
    SUPERSEDED_TOKENS.inc()


def usecase_context(
    store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
) -> Context:
    """Return what the use-cases over a store work with."""
    return Context(
        store=store,
        clock=clock,
        policy=policy,
        audit=audit,
        activity=Activity(store, clock, policy),
        superseded=SupersededTokens(store, clock, policy, count_superseded, audit),
    )


def schedule(
    database: Database,
    settings: Settings,
    clock: Clock,
    audit: Audit = NOWHERE,
    right_clock: RightClock | None = None,
) -> Schedule:
    """Return the upkeep's schedule over a database."""
    interval = timedelta(seconds=settings.worker_interval_seconds)
    expire, erase, partition, purge = jobs(database, settings, clock, audit)
    return Schedule(expire, [erase, partition, purge], clock, interval, right_clock)


def right_clock(database: Database, skew: ClockSkew) -> RightClock | None:
    """Return what the upkeep asks whether the clock is right; None for a clock that a test moves."""
    if skew.is_given:
        return None
    return RightClock(SqlUpkeepStore(database), skew.clock, skew.require_right_clock)


def jobs(
    database: Database, settings: Settings, clock: Clock, audit: Audit = NOWHERE
) -> tuple[Expire, Erase, Partition, Purge]:
    """Return the upkeep's jobs over a database, in the order in which each finds the most done."""
    policy = settings.policy
    store = SqlUpkeepStore(database, erases_at_end=erases_at_end(policy))
    return (
        Expire(store, clock, audit=audit),
        Erase(store),
        Partition(store, clock, policy),
        Purge(store, clock, policy),
    )


def erases_at_end(policy: Policy) -> bool:
    """Say whether addresses go when a session ends."""
    return policy.erase_addresses is EraseAddresses.AT_END
