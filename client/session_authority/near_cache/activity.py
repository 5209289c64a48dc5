"""When the use of a kept session is reported, and when the session dies by itself."""

import math

from session_authority.session import Session

IDLE_TIMEOUT_SHARE = 10
"""The authority's resolution is at most this share of an idle timeout, so that use counts before idleness."""

RETRY_SHARE = 10
"""A report that failed, or came before the authority's own window had passed, is repeated after this share."""

CLOCK_SKEW_SECONDS = 5.0
"""How much earlier than its own expiry a session dies here, for wall clocks that disagree."""


def resolution_seconds(session: Session, activity_seconds: float) -> float:
    """Give how stale the recorded activity of a session may be.

    What the authority does not say follows from what it does: an idle timeout is the distance between
    `idle_expire_time` and `last_active_time`.
    """
    if session.idle_expire_time is None:
        return activity_seconds
    idle_timeout = session.idle_expire_time - session.last_active_time
    return min(activity_seconds, idle_timeout.total_seconds() / IDLE_TIMEOUT_SHARE)


def due_at(session: Session, resolution: float, sent_at: float, wall_time: float) -> float:
    """Give the moment from which on use is to be reported again, of a session whose use was just reported.

    Where the authority had recorded use less than a window ago, it did not record this one: then it is as soon
    as that window is over. By a clock that disagrees with the authority's, it comes earlier or a window later at
    most.
    """
    age = wall_time - session.last_active_time.timestamp()
    left = resolution - age if 0 <= age < resolution else resolution
    return sent_at + max(left, resolution / RETRY_SHARE)


class Expiry:
    """Converts the times at which sessions die by themselves to the clock of the lease.

    The authority's clock is taken to show what this machine's does, and at least what the answers prove: no
    session was last active in the authority's future. What is left of a disagreement is covered by a margin and,
    for sessions in use, by the reports of it.
    """

    def __init__(self) -> None:
        self._ahead_seconds = -math.inf

    def learn(self, session: Session, now: float) -> None:
        """Take what an answer proves about the authority's clock."""
        ahead = session.last_active_time.timestamp() - now
        self._ahead_seconds = max(self._ahead_seconds, ahead)

    def dead_at(self, session: Session, sent_at: float, wall_time: float) -> float:
        """Give the moment from which on a session is not to be answered for."""
        ends = session.expire_time
        if session.idle_expire_time is not None:
            ends = min(ends, session.idle_expire_time)
        ahead = max(self._ahead_seconds, wall_time - sent_at)
        return ends.timestamp() - ahead - CLOCK_SKEW_SECONDS
