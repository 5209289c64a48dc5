"""The settings and the statistics of the near cache."""

import math
from dataclasses import dataclass

from session_authority.errors import ConfigurationError

DEFAULT_MAX_SESSIONS = 10_000
DEFAULT_ACTIVITY_SECONDS = 60.0
MAX_SESSIONS_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class NearCache:
    """The settings of a near cache: `SessionClient(near_cache=NearCache(max_sessions=50_000))`.

    Args:
        max_sessions: The largest number of cached sessions, 1 to 1,000,000. The least recently used ones are
            removed to make room. A session takes about 700 bytes.
        activity_seconds: How often the client reports the use of a cached session, so that the authority can
            record its activity and its latest IP address. Set it to the authority's resolution of last-active
            times (60 unless configured). At most a tenth of the session's idle timeout is used.

    Raises:
        ConfigurationError: A value is out of range.
    """

    max_sessions: int = DEFAULT_MAX_SESSIONS
    activity_seconds: float = DEFAULT_ACTIVITY_SECONDS

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= MAX_SESSIONS_LIMIT:
            raise ConfigurationError("max_sessions", f"must be from 1 to {MAX_SESSIONS_LIMIT}")
        if not (math.isfinite(self.activity_seconds) and self.activity_seconds >= 1):
            raise ConfigurationError("activity_seconds", "must be a number of seconds, at least 1")


@dataclass(frozen=True, slots=True)
class NearCacheStatistics:
    """The state of a near cache, and its counters in this process.

    Attributes:
        hits: Validations that were answered from memory.
        misses: Validations that were sent to the authority.
        evictions: Sessions that were removed because they changed or the stream was lost.
        displacements: Sessions that were removed to make room.
        revalidations: Reports of use that were due.
        size: The number of cached sessions.
        connected: Whether a stream is open and has answered a ping.
        lease_age_seconds: How long ago the latest answered ping was sent; None if not connected. Beyond
            `lease_seconds`, no validation is answered from memory.
        lease_seconds: How long the authority lets cached answers be used; None if not connected.
        problem: Why there is no stream, if known.
    """

    hits: int
    misses: int
    evictions: int
    displacements: int
    revalidations: int
    size: int
    connected: bool
    lease_age_seconds: float | None
    lease_seconds: float | None
    problem: str | None
