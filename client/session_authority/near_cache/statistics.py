"""What an app can read about its near cache."""

from dataclasses import dataclass


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
