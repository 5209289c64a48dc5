"""Retries of calls that failed because of an outage or an overload. Nothing here does I/O.

The clients switch gRPC's own retries off. If a server rejects a call with GOAWAY, gRPC retries it at once, without a
pause or a limit. Each attempt keeps its memory until the call's deadline: gigabytes in seconds.
"""

import random
import threading
import time

import grpc

from session_authority._error_details import Failure
from session_authority.errors import SessionAuthorityError, Unavailable

MAX_ATTEMPTS = 4
INITIAL_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 0.5
BUDGET_TOKENS = 100
"""Retries stop once half of the tokens are spent, so that they don't multiply the load during a recovery. Half is
enough for the calls that a client has in flight when a server dies."""
TOKENS_OF_AN_ANSWER = 0.1

RETRYABLE = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        # An overloaded server or proxy sends these two codes, with or without a reason.
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    )
)
_PUSHBACK = "grpc-retry-pushback-ms"
_PUSHBACK_DIGITS = 9  # more than ten days
_JITTER = 0.2


class RetryBudget:
    """The number of retries that one channel may still make, counted as in gRPC's proposal A6."""

    __slots__ = ("_lock", "_tokens")

    def __init__(self) -> None:
        self._lock = (
            threading.Lock()
        )  # not renewed after a fork: the child makes a new channel, with a new budget
        self._tokens = float(BUDGET_TOKENS)

    def answered(self) -> None:
        """Count a call that succeeded."""
        if self._tokens < BUDGET_TOKENS:
            with self._lock:
                self._tokens = min(self._tokens + TOKENS_OF_AN_ANSWER, BUDGET_TOKENS)

    def failed(self) -> bool:
        """Count an attempt that failed, and say whether another one is allowed."""
        with self._lock:
            self._tokens = max(self._tokens - 1, 0.0)
            return self._tokens > BUDGET_TOKENS / 2


class Attempts:
    """The attempts of one call."""

    __slots__ = ("_budget", "_deadline", "_made")

    def __init__(self, budget: RetryBudget, deadline_seconds: float) -> None:
        self._budget = budget
        self._deadline = time.monotonic() + deadline_seconds
        self._made = 0

    def seconds_left(self) -> float:
        """Return how many seconds the next attempt may take. All attempts share one deadline."""
        return self._deadline - time.monotonic()

    def pause_after(self, status: Failure, failure: SessionAuthorityError) -> float | None:
        """Return how many seconds to wait before the next attempt; None if no attempt may follow."""
        self._made += 1
        if status.code() not in RETRYABLE or not isinstance(failure, Unavailable):
            return None
        pushback = _pushback(status)
        if not self._budget.failed() or self._made >= MAX_ATTEMPTS:
            return None
        if pushback is None:
            pause = min(INITIAL_PAUSE_SECONDS * 2 ** (self._made - 1), MAX_PAUSE_SECONDS)
            pause *= 1 + _JITTER * random.uniform(-1, 1)  # noqa: S311 - jitter, not a secret
        elif pushback.isdecimal() and len(pushback) <= _PUSHBACK_DIGITS:
            pause = int(pushback) / 1000
        else:  # the server forbids another attempt
            return None
        return pause if pause < self.seconds_left() else None


def _pushback(status: Failure) -> str | None:
    """Return the server's pushback, if any: milliseconds to wait, or a text that forbids another attempt."""
    for key, value in status.trailing_metadata() or ():
        if key == _PUSHBACK:
            return str(value)
    return None
