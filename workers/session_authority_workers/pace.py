from dataclasses import dataclass, field
from datetime import timedelta

from session_authority_server.domain.policy import CLOCK_SKEW_ALLOWANCE


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard the upkeep may work.

    Attributes:
        batch: How many rows one transaction touches at most. Small, because other writers wait for it.
        pause_seconds: How long to leave the store to others between two batches.
        hold_back: How far behind the present the worker stays, so that it never ends what the slowest
            validator's clock still finds live.
    """

    batch: int = 500
    pause_seconds: float = 0.005
    hold_back: timedelta = field(default=CLOCK_SKEW_ALLOWANCE)
