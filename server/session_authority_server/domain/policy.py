from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.privacy import EraseAddresses, KeepAddresses, KeepUserAgents

MINIMUM_LIFETIME = timedelta(seconds=1)
MINIMUM_IDLE_TIMEOUT = timedelta(minutes=1)
# An app's clock may be ahead. A moment up to this far in the future counts as the present.
CLOCK_SKEW_ALLOWANCE = timedelta(seconds=5)


class AtLimit(Enum):
    """The effect of a sign-in when its user has reached the session limit."""

    END_LEAST_RECENTLY_ACTIVE = "end-least-recently-active"
    REFUSE = "refuse"


class SupersededUse(Enum):
    """The effect of using a superseded token."""

    REJECT = "reject"
    END_SESSION = "end-session"


@dataclass(frozen=True, slots=True)
class Policy:
    """Every rule about sessions that an operator can set.

    Attributes:
        absolute_lifetime: The longest lifetime of a session, and the default.
        idle_timeout: How long a session may stay unused; None for no limit.
        last_active_resolution: How far the recorded last activity may lag behind the real one.
        session_limit: How many live sessions a user may have; None for no limit.
        at_limit: The effect of a sign-in at the limit.
        history_retention: How long an ended session stays in the history.
        retry_window: How long a repeated call gets the same answer.
        cache_lease: How long a client may trust its cache after its last contact.
        effective_margin: The time added to the lease, because clocks may be ahead by the tolerated skew or run at
            different speeds.
        max_authentication_age: The largest age of a user's proof of identity to list or end sessions; None for any
            age.
        superseded_use: The effect of using a superseded token.
        superseded_grace: How long after a re-authentication the use of the old token has no effect. Parallel
            requests of a browser may still carry it.
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
            raise ValueError("max_authentication_age must be positive")

    def resolution_for(self, idle_timeout: timedelta | None) -> timedelta:
        """Return how stale a session's recorded activity may be.

        At most a tenth of the idle timeout, so that a use is recorded before the session idles out.
        """
        if idle_timeout is None:
            return self.last_active_resolution
        return min(self.last_active_resolution, idle_timeout / 10)

    def effective_time(self, committed: datetime) -> datetime:
        """Return the moment after which no validator accepts the sessions that a commit ended.

        This holds by the database's clock, and by every clock that is at most TOLERATED_SKEW ahead of it.

        Args:
            committed: A reading of the clock taken after the commit.
        """
        return committed + self.cache_lease + self.effective_margin
