"""The size of test campaigns: races, chaos, faults, fuzzing and properties.

`make test` runs a short form of each. `make soak` sets SOAK, selects the tests that are marked `soak`, and runs
their long form.
"""

import os
from typing import TypeVar

T = TypeVar("T")


def soaked(long: T, short: T) -> T:
    """Return the size of a campaign: `long` under `make soak`, otherwise `short`."""
    return long if os.environ.get("SOAK") else short
