from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.rpc.authentication import Caller
from session_authority_server.rpc.error_table import TooManyRejectedTokens

_MINUTE_SECONDS = 60.0


class RejectedTokens:
    """Limits how often each API key is told that a token is unknown.

    A token is always looked up first, so this limit never refuses a good one. A key's bucket holds the calls of one
    minute and refills evenly. Only keys that presented an unknown token have a bucket.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Take the limit in calls a minute; 0 for none."""
        self._clock = clock
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, datetime]] = {}

    def count(self, caller: Caller) -> TooManyRejectedTokens | None:
        """Take one call from a caller's bucket; return the refusal if the bucket is empty."""
        if not self._per_minute:
            return None
        key_id, now = caller.key_id, self._clock.now()
        left = self._filled(key_id, now)
        if left < 1:
            return TooManyRejectedTokens(
                timedelta(seconds=(1 - left) * _MINUTE_SECONDS / self._per_minute)
            )
        self._left[key_id] = left - 1, now
        return None

    def _filled(self, key_id: str, now: datetime) -> float:
        left, then = self._left.get(key_id, (float(self._per_minute), now))
        filled = (now - then).total_seconds() * self._per_minute / _MINUTE_SECONDS
        return min(left + filled, float(self._per_minute))
