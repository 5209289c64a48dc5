"""Use-cases and upkeep, put together over a store."""

from datetime import timedelta

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.config import Settings
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.session import Session
from session_authority_server.observability.metrics import SUPERSEDED_TOKENS
from session_authority_server.rpc.session_admin_service import AdminUseCases
from session_authority_server.rpc.session_service import UseCases
from session_authority_server.store.database import Database
from session_authority_server.store.protocol import SessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.audit import NOWHERE, Audit
from session_authority_server.usecases.create_session import CreateSession
from session_authority_server.usecases.erase_user import EraseUser
from session_authority_server.usecases.list_sessions import ListSessions
from session_authority_server.usecases.reauthenticate_session import ReauthenticateSession
from session_authority_server.usecases.revoke_all_sessions import RevokeAllSessions
from session_authority_server.usecases.revoke_key_sessions import RevokeKeySessions
from session_authority_server.usecases.revoke_one_session import RevokeOneSession
from session_authority_server.usecases.revoke_other_sessions import RevokeOtherSessions
from session_authority_server.usecases.revoke_session import RevokeSession
from session_authority_server.usecases.revoke_user_sessions import RevokeUserSessions
from session_authority_server.usecases.sign_out import SignOut
from session_authority_server.usecases.superseded import SupersededTokens
from session_authority_server.usecases.validate_sessions import ValidateSessions
from session_authority_workers.erase import Erase
from session_authority_workers.expire import Expire
from session_authority_workers.partition import Partition
from session_authority_workers.purge import Purge
from session_authority_workers.right_clock import RightClock
from session_authority_workers.schedule import Schedule


def count_superseded(_session: Session) -> None:
    """Count the use of a superseded token."""
    SUPERSEDED_TOKENS.inc()


def usecases(
    store: SessionStore,
    clock: Clock,
    policy: Policy,
    activity: Activity,
    audit: Audit = NOWHERE,
    superseded: SupersededTokens | None = None,
) -> UseCases:
    """Return the use-cases over a store, telling an audit log what they did."""
    if superseded is None:
        superseded = SupersededTokens(store, clock, policy, count_superseded, audit)
    return UseCases(
        create=CreateSession(store, clock, policy, audit),
        validate=ValidateSessions(store, clock, activity, superseded, audit),
        list=ListSessions(store, clock, policy, superseded, audit),
        revoke=RevokeSession(store, clock, policy, superseded, audit),
        revoke_others=RevokeOtherSessions(store, clock, policy, superseded, audit),
        sign_out=SignOut(store, clock, policy, audit),
        reauthenticate=ReauthenticateSession(store, clock, policy, superseded, audit),
    )


def admin_usecases(
    store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
) -> AdminUseCases:
    """Return the operators' use-cases over a store, telling an audit log what they did."""
    return AdminUseCases(
        revoke_user=RevokeUserSessions(store, clock, policy, audit),
        revoke_all=RevokeAllSessions(store, clock, policy, audit),
        revoke_one=RevokeOneSession(store, clock, policy, audit),
        revoke_key=RevokeKeySessions(store, clock, policy, audit),
        erase_user=EraseUser(store, clock, policy, audit),
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
