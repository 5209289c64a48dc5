"""The clock of the integrations: the system's, or that of the test authority that the client calls."""

from collections.abc import Callable
from datetime import UTC, datetime

test_clocks: dict[str, Callable[[], datetime]] = {}
"""The clock of each running `testing.Authority`, by its address. Empty outside of tests."""


def system_time() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one place that asks the system


def time_at(address: str) -> datetime:
    """Return the time now by the clock that counts for clients of this address."""
    return test_clocks.get(address, system_time)()
