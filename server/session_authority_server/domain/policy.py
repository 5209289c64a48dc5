from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents

MINIMUM_LIFETIME = timedelta(seconds=1)
MINIMUM_IDLE_TIMEOUT = timedelta(minutes=1)
# An app's clock may differ from ours: a moment this far ahead is taken as the present.
CLOCK_SKEW_ALLOWANCE = timedelta(seconds=5)


class AtLimit(Enum):
    """What a sign-in does when its user has reached the session limit."""

    END_LEAST_RECENTLY_ACTIVE = "end-least-recently-active"
    REFUSE = "refuse"


class SupersededUse(Enum):
    """What the use of a superseded token does to its session."""

    REJECT = "reject"
    END_SESSION = "end-session"


@dataclass(frozen=True, slots=True)
class Policy:
    """Every rule about sessions that an operator can set.

    Attributes:
        absolute_lifetime: How long a session lives at most; also the default.
        idle_timeout: How long a session lives unused at most; None for no such rule.
        last_active_resolution: How far a recorded last activity may lag behind the real one.
        session_limit: How many live sessions a user may have; None for no limit.
        at_limit: What a sign-in at the limit does.
        history_retention: How long an ended session stays in the history.
        retry_window: How long a repeated call gets the same answer.
        cache_lease: How long a client may trust its cache after its last contact.
        effective_margin: Added to the lease for clocks that are ahead by the tolerated skew or run at different
            speeds.
        max_authentication_age: How old the proof of identity may be when a user lists or ends their sessions;
            None for any age.
        superseded_use: What the use of a superseded token does.
        superseded_grace: How long after a re-authentication it does nothing: a browser's parallel requests may
            still carry the old token.
        keep_ip_addresses: How much of an IP address is kept.
        keep_user_agents: Whether a user agent is kept in full.
        erase_addresses: When addresses and user agents are erased.
    """

    absolute_lifetime: timedelta = timedelta(days=90)
    idle_timeout: timedelta | None = None
    last_active_resolution: timedelta = timedelta(seconds=60)
    session_limit: int | None = 100
    at_limit: AtLimit = AtLimit.END_LEAST_RECENTLY_ACTIVE
    history_retention: timedelta = timedelta(days=30)
    retry_window: timedelta = timedelta(minutes=10)
    cache_lease: timedelta = timedelta(seconds=2)
    effective_margin: timedelta = TOLERATED_SKEW + timedelta(milliseconds=100)
    max_authentication_age: timedelta | None = None
    superseded_use: SupersededUse = SupersededUse.REJECT
    superseded_grace: timedelta = timedelta(seconds=10)
    keep_ip_addresses: KeepAddresses = KeepAddresses.FULL
    keep_user_agents: KeepUserAgents = KeepUserAgents.FULL
    erase_addresses: EraseAddresses = EraseAddresses.WITH_HISTORY

    def __post_init__(self) -> None:
        if self.absolute_lifetime < MINIMUM_LIFETIME:
            raise ValueError("absolute_lifetime must be at least 1 second")
        if self.idle_timeout is not None and self.idle_timeout < MINIMUM_IDLE_TIMEOUT:
            raise ValueError("idle_timeout must be at least 60 seconds")
        if self.session_limit is not None and self.session_limit < 1:
            raise ValueError("session_limit must be at least 1")
        if self.last_active_resolution < timedelta(0) or self.history_retention < timedelta(0):
            raise ValueError("last_active_resolution and history_retention must not be negative")
        if self.max_authentication_age is not None and self.max_authentication_age <= timedelta(0):
            raise ValueError("max_authentication_age must be more than nothing")

    def resolution_for(self, idle_timeout: timedelta | None) -> timedelta:
        """Return how stale a session's recorded activity may be.

        A tenth of the idle timeout at most, so that use is always recorded before idleness counts.
        """
        if idle_timeout is None:
            return self.last_active_resolution
        return min(self.last_active_resolution, idle_timeout / 10)

    def effective_time(self, committed: datetime) -> datetime:
        """Return the moment after which no validator accepts the sessions that a commit ended.

        It holds by the database's clock, and by every clock that is ahead of it by TOLERATED_SKEW at most.

        Args:
            committed: A reading of the clock taken after the commit.
        """
        return committed + self.cache_lease + self.effective_margin
