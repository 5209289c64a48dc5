"""The times at which the client reports the use of a cached session, and at which the session expires."""

import math

from session_authority.session import Session

IDLE_TIMEOUT_SHARE = 10
"""The authority records use at least this many times within an idle timeout, so that a session in use stays live."""

RETRY_SHARE = 10
"""A report that failed, or that the authority did not record, is repeated after this share of the resolution."""

CLOCK_SKEW_SECONDS = 5.0
"""The cache drops a session this long before it expires, because wall clocks may disagree."""


def resolution_seconds(session: Session, activity_seconds: float) -> float:
    """Return how many seconds the recorded activity of a session may lag behind its use.

    The authority does not send the idle timeout, so compute it: `idle_expire_time` minus `last_active_time`.
    """
    if session.idle_expire_time is None:
        return activity_seconds
    idle_timeout = session.idle_expire_time - session.last_active_time
    return min(activity_seconds, idle_timeout.total_seconds() / IDLE_TIMEOUT_SHARE)


def due_at(session: Session, resolution: float, sent_at: float, wall_time: float) -> float:
    """Return when to report the use of a session again, after a call that reported its use.

    The authority records use at most once per `resolution`. If it did not record this use, the next report is due as
    soon as the authority would record it. If the clocks disagree, the report is early, or at most one `resolution` late.
    """
    age = wall_time - session.last_active_time.timestamp()
    left = resolution - age if 0 <= age < resolution else resolution
    return sent_at + max(left, resolution / RETRY_SHARE)


class Expiry:
    """Converts the times at which sessions expire to times on the lease clock (`lease.lease_clock`).

    The authority's clock is assumed to agree with this machine's, unless an answer has a `last_active_time` in the
    future. Such a time proves that the authority's clock is ahead, and this class allows for the difference. The margin
    `CLOCK_SKEW_SECONDS` covers the rest. For a session in use, each report of use also extends the idle timeout long
    before its end.
    """

    def __init__(self) -> None:
        self._ahead_seconds = -math.inf

    def learn(self, session: Session, now: float) -> None:
        """Learn from an answer how far the authority's clock is ahead."""
        ahead = session.last_active_time.timestamp() - now
        self._ahead_seconds = max(self._ahead_seconds, ahead)

    def dead_at(self, session: Session, sent_at: float, wall_time: float) -> float:
        """Return the time, on the lease clock, at which the cache must stop answering for a session."""
        ends = session.expire_time
        if session.idle_expire_time is not None:
            ends = min(ends, session.idle_expire_time)
        ahead = max(self._ahead_seconds, wall_time - sent_at)
        return ends.timestamp() - ahead - CLOCK_SKEW_SECONDS
