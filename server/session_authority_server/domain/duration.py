"""Durations as operators write them, such as `90d`, `1h30m` and `500ms`."""

import re
from datetime import timedelta

# From the longest to the shortest, the order in which a duration lists its units.
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
# Each number has at most nine digits before the point. The look-ahead rejects a nine-digit number of days, because the
# whole duration could then exceed the maximum of `timedelta`.
_DURATION = re.compile(
    r"(?!\d{9}(?:\.\d+)?d)"
    + "".join(rf"(?:(?P<{unit}>\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in _UNITS),
    re.ASCII,
)
EXAMPLE = "a duration such as 90d, 1h30m or 500ms"


def parse_duration(text: str) -> timedelta | None:
    """Return the duration that a text names; None if it names none.

    Each unit may occur once, the longest unit first.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        return None
    total = timedelta()
    for unit, number in found.groupdict().items():
        if number is not None:
            total += float(number) * _UNITS[unit]
    return total


def format_duration(length: timedelta) -> str:
    """Return a duration as `parse_duration` reads it; `0s` for a zero duration."""
    parts = []
    for unit, size in _UNITS.items():
        count, length = divmod(length, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
