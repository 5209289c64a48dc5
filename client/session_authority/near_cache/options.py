"""What an app chooses about its near cache, and what it can read about it."""

import math
from dataclasses import dataclass

from session_authority.errors import ConfigurationError

DEFAULT_MAX_SESSIONS = 10_000
DEFAULT_ACTIVITY_SECONDS = 60.0
MAX_SESSIONS_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class NearCache:
    """The near cache of a client: `SessionClient(near_cache=NearCache(max_sessions=50_000))`.

    Args:
        max_sessions: How many sessions it keeps at most, 1 to 1,000,000; the least recently used make
            room. A session takes about 700 bytes.
        activity_seconds: How often the use of a session that is answered from memory is reported to the
            authority, which records it as last active and with its latest IP address. The authority's own
            resolution of last-active times, 60 unless its operator changed it. For a session with an idle
            timeout it is a tenth of that where that is less.

    Raises:
        ConfigurationError: A value is beyond its limits.
    """

    max_sessions: int = DEFAULT_MAX_SESSIONS
    activity_seconds: float = DEFAULT_ACTIVITY_SECONDS

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= MAX_SESSIONS_LIMIT:
            raise ConfigurationError("max_sessions", f"is not from 1 to {MAX_SESSIONS_LIMIT}")
        if not (math.isfinite(self.activity_seconds) and self.activity_seconds >= 1):
            raise ConfigurationError("activity_seconds", "is not a number of seconds from 1 on")


@dataclass(frozen=True, slots=True)
class NearCacheStatistics:
    """A near cache at one moment, and what it has done in this process so far.

    Attributes:
        hits: Validations that were answered from memory.
        misses: Validations that the authority was asked for.
        evictions: Sessions that were forgotten because their validity changed, the stream's loss included.
        displacements: Sessions that were forgotten to make room.
        revalidations: Reports of use that fell due.
        size: How many sessions are kept now.
        connected: Whether a stream tells of changes and has answered.
        lease_age_seconds: How long ago the latest answered ping was sent; None without a stream that has
            answered. Beyond `lease_seconds`, nothing is answered from memory.
        lease_seconds: How long the authority lets answers be used, as it last said; None until it has.
        problem: Why there is no stream, where that is known.
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
