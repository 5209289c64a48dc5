"""The definition of a live session.

`store/liveness.py` has the same definition in SQL. A property test proves that both are equal.
"""

from datetime import datetime

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session


def is_live(session: Session, now: datetime) -> bool:
    """Return whether a session is live: not ended, not expired, not idle for too long and not swept."""
    return (
        session.ending is None
        and now < session.expire_time
        and (session.idle_timeout is None or now < session.last_active_time + session.idle_timeout)
        and not is_swept(session)
    )


def is_swept(session: Session) -> bool:
    """Return whether a sweep has ended a session.

    Each sweep raises the epoch of one user or the global epoch. A session is swept if an epoch at its creation differs
    from the current one. Times are not compared.
    """
    return (
        session.user_epoch != session.current_user_epoch
        or session.global_epoch != session.current_global_epoch
    )


def ending_of(session: Session, now: datetime) -> Ending | None:
    """Return how a session ended; None while it is live.

    A recorded ending always counts. Otherwise, the earliest implied ending counts. If two fall on the same instant, a
    sweep has priority over the idle timeout, and the idle timeout over the lifetime.
    """
    if session.ending is not None:
        return session.ending
    if is_live(session, now):
        return None
    implied: list[Ending] = []
    if is_swept(session):
        if session.sweep is None:
            implied.append(Ending(now, EndReason.REVOKED, InitiatingEntity.SYSTEM))
        else:
            sweep = session.sweep
            implied.append(Ending(sweep.time, EndReason.REVOKED, sweep.initiated_by))
    # The session is not live, so the earliest of these has passed.
    if session.idle_expire_time is not None:
        idle_end = session.idle_expire_time
        implied.append(Ending(idle_end, EndReason.IDLE_TIMEOUT, InitiatingEntity.POLICY))
    implied.append(Ending(session.expire_time, EndReason.EXPIRED, InitiatingEntity.POLICY))
    return min(implied, key=lambda ending: ending.time)
