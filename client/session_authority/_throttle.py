"""Refusing calls at home while the authority is overloaded. Nothing here does I/O.

To read a call and refuse it costs a server a good part of what it costs to answer one, so callers that keep
asking keep it from answering anybody. Each client therefore refuses in microseconds what would be in vain:

- It has no more calls under way than the authority takes from it, found as TCP finds what a network carries:
  a refusal narrows the window by a fifth, each round of answers widens it by half a call (additive increase,
  multiplicative decrease: Chiu and Jain, 1989). Calls under way, and not calls a second, are bounded, so that
  it takes no time to be back when the load goes.
- Of many clients with a call or two under way each, there is nothing to narrow. They make no more calls than K
  times those that are answered: the client-side throttling of "Handling Overload" (chapter 21 of "Site
  Reliability Engineering", Google).
"""

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from session_authority.errors import Unavailable

_NARROWING = 0.8
_WIDENING_CALLS = 0.5
_NARROWEST_CALLS = 2.0
_NARROW_CALLS = 4.0
"""Below, a window hardly tells what the authority takes, and what share it answers begins to count."""

_FEW_CALLS = 64
"""More than a server takes of a client at once, which is 48: beyond, calls wait in the client."""

_LONG_WAIT_SECONDS = 0.15
"""Calls that wait so long behind others of their client are too many, even if the authority refuses none."""

_LATELY_SECONDS = 1.0
"""When neither side has refused a call for so long, there is no bound."""

_MULTIPLIER = 2.0
"""K. The more it is, the sooner it is found out that the overload is over, and the more is refused till then."""

_MEMORY_SECONDS = 0.1
"""In how long what was counted fades to 1/e."""

RETRY_AFTER = timedelta(seconds=1)
"""What a user is told, when nobody says when to come back."""

# A validation shed is a page that is shown a second later. Signing in, out and others out are few calls, and
# users miss them more.
_SHEDDABLE = frozenset(
    f"/session_authority.v1.SessionService/{name}"
    for name in ("ValidateSession", "BatchValidateSessions", "ListSessions")
)


class Begun(NamedTuple):
    """A call that was let through.

    Attributes:
        at: When, on the throttle's clock.
        under_way: How many calls were under way then, this one among them.
    """

    at: float
    under_way: int


class Throttle:
    """What goes through one channel to the authority."""

    __slots__ = (
        "_answered",
        "_asked",
        "_faded",
        "_limited",
        "_lock",
        "_monotonic",
        "_narrowed",
        "_random",
        "_under_way",
        "_window",
    )

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        # A call that threads lost count of would narrow the window for ever. No fork inherits the lock locked:
        # it gets a connection of its own.
        self._lock = threading.Lock()
        self._under_way = 0
        self._window = math.inf
        self._narrowed = self._limited = -math.inf
        self._asked = self._answered = 0.0
        self._faded = monotonic()
        self._monotonic = monotonic
        self._random = random_share

    def begin(self, method: str) -> Begun:
        """Let a call begin.

        Args:
            method: Its path.

        Raises:
            Unavailable: It is refused, and has not begun.
        """
        with self._lock:
            now = self._monotonic()
            if method not in _SHEDDABLE or self._has_room(now):
                self._under_way += 1
                return Begun(now, self._under_way)
            self._limited = now
        raise Unavailable(
            "SERVER_OVERLOADED: not asked, for the authority answers no more calls of this client",
            reason="SERVER_OVERLOADED",
            retry_after=RETRY_AFTER,
        )

    def end(self, call: Begun, *, answered: bool | None) -> None:
        """Note how a call ended that had begun.

        Args:
            call: What `begin` returned.
            answered: Whether it was, or refused for overload. None for neither: a server that can't be
                reached has no load to be kept off, and tells nothing of how much it carries.
        """
        with self._lock:
            self._under_way -= 1
            if answered is not None:
                self._learn(call, answered)

    def _has_room(self, now: float) -> bool:
        return self._under_way < self._window and not self._is_in_vain(now)

    def _learn(self, call: Begun, answered: bool) -> None:
        now = self._monotonic()
        self._fade(now)
        self._asked += 1
        self._answered += answered
        waited = call.under_way > _FEW_CALLS and now - call.at > _LONG_WAIT_SECONDS
        if not answered or waited:
            # Once for all calls that were under way together.
            if call.at > self._narrowed:
                most = max(call.under_way, self._under_way + 1)
                self._window = max(min(self._window, most) * _NARROWING, _NARROWEST_CALLS)
                self._narrowed = now
        elif now - max(self._narrowed, self._limited) > _LATELY_SECONDS:
            self._window = math.inf
        else:
            self._window += _WIDENING_CALLS / self._window

    def _is_in_vain(self, now: float) -> bool:
        if self._window >= _NARROW_CALLS or self._asked <= _MULTIPLIER * self._answered:
            return False
        self._fade(now)
        share = (self._asked - _MULTIPLIER * self._answered) / (self._asked + 1)
        if self._random() >= share:
            return False
        self._asked += 1
        return True

    def _fade(self, now: float) -> None:
        share = math.exp((self._faded - now) / _MEMORY_SECONDS)
        self._asked *= share
        self._answered *= share
        self._faded = now
