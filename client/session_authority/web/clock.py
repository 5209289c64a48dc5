"""The clock that the web parts take the time from, unless a test gives another."""

from datetime import UTC, datetime


def system_time() -> datetime:
    """Give the time now, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one place that asks the system
