from datetime import datetime, timedelta

from session_authority_server.domain.clock import Clock
from session_authority_server.rpc.caller import current_caller
from session_authority_server.rpc.error_table import TooManyRejectedTokens

_MINUTE_SECONDS = 60.0


class RejectedTokens:
    """Bounds how many tokens that are not good a caller may present, each caller by itself.

    A bucket holds a minute's worth and fills evenly. Who has emptied it is refused until there is one again.
    Tokens that are good cost a look into a set that is nearly always empty. There is a bucket for each key that
    had a token rejected, so there are never more than keys.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Take the bound; 0 for none."""
        self._clock = clock
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, datetime]] = {}
        self._empty: set[str] = set()

    def check(self) -> None:
        """Let the caller of the present call pass.

        Raises:
            TooManyRejectedTokens: If it has presented too many that were rejected.
        """
        if not self._empty:
            return
        key_id = current_caller.get().key_id
        if key_id not in self._empty:
            return
        left = self._filled(key_id, self._clock.now())
        if left < 1:
            raise TooManyRejectedTokens(
                timedelta(seconds=(1 - left) * _MINUTE_SECONDS / self._per_minute)
            )
        self._empty.discard(key_id)

    def count(self, tokens: int = 1) -> None:
        """Take as many tokens as rejected from the bucket of the present call's caller."""
        if not self._per_minute or not tokens:
            return
        key_id, now = current_caller.get().key_id, self._clock.now()
        # A batch may take more than there are; what it owes is paid within a minute.
        left = max(self._filled(key_id, now) - tokens, -float(self._per_minute))
        self._left[key_id] = left, now
        if left < 1:
            self._empty.add(key_id)

    def _filled(self, key_id: str, now: datetime) -> float:
        left, then = self._left.get(key_id, (float(self._per_minute), now))
        filled = (now - then).total_seconds() * self._per_minute / _MINUTE_SECONDS
        return min(left + filled, float(self._per_minute))
