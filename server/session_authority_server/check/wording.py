from datetime import timedelta

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def span(length: timedelta) -> str:
    """Return how long something is, in the largest unit that says it exactly: "90 days", "1 hour"."""
    seconds = int(length.total_seconds())
    for unit_seconds, name in _UNITS:
        if seconds % unit_seconds == 0 and seconds >= unit_seconds:
            count = seconds // unit_seconds
            return f"{count:,} {name}" + ("" if count == 1 else "s")
    return "no time"
