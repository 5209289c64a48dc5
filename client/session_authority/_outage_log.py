"""The warning in an app's log while calls to the authority fail."""

import logging
import time
from collections.abc import Callable

from session_authority._error_details import masked
from session_authority.errors import (
    CallerRejected,
    InternalError,
    SessionAuthorityError,
    Unavailable,
)

WARNING_INTERVAL_SECONDS = 60.0

# Every other error is about one request: its user, its arguments or its session.
_FAILURES = (Unavailable, CallerRejected, InternalError)
# The server ends a stream with this reason, for example when it shuts down. This is not an outage, so it is not logged:
# the near cache opens a new stream.
_INTERRUPTED = "WATCH_INTERRUPTED"

_log = logging.getLogger("session_authority.client")


class OutageLog:
    """Logs why calls fail, at most once a minute. Without it, the log of an app that answers 503 gives no cause."""

    def __init__(self, address: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._address = masked(address)  # someone may have given the API key as the address
        self._monotonic = monotonic
        self._silent_until = float("-inf")

    def failed(self, error: SessionAuthorityError) -> None:
        """Log a failure, unless one was logged within the last minute.

        There is no lock, because a fork could inherit it locked. Two threads may therefore both log.
        """
        if not isinstance(error, _FAILURES) or error.reason == _INTERRUPTED:
            return
        now = self._monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + WARNING_INTERVAL_SECONDS
        _log.warning(
            "Calls to the session authority at %s fail: %s This is logged at most once in %d seconds.",
            self._address,
            error,
            WARNING_INTERVAL_SECONDS,
        )
