"""Subscriptions to the ends of sessions, driven by the near cache's stream. Nothing here does I/O.

A watched token is *confirmed* until a certain time. Two things confirm it:

- **The stream**, if the answer about the token may be cached. The token is confirmed for as long as the lease lasts.
- **A call** that accepted the token. The token is confirmed for the length of a lease, counted from when the call was
  sent. The session was live then, so the `effective_time` of a later ending is after the lease.

The client asks the authority again before a confirmation ends, and at once after a change of the session. If no answer
comes in time, the subscriptions end with `Unavailable`.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import final

from session_authority.errors import (
    ClientClosed,
    EndCallback,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.near_cache.flights import Subject
from session_authority.near_cache.lease import Lease
from session_authority.session import Rejection, Session

SUBSCRIPTIONS_LIMIT = 20_000
"""The most subscriptions of a SessionClient, or of each event loop of an AsyncSessionClient."""

QUESTIONS_LIMIT = 1_000
"""The most sessions that one step asks about."""

POLL_SHARE = 2
"""Without the stream, the client asks the authority again after 1/POLL_SHARE of the lease."""

LATE_SHARE = 4
"""If less than 1/LATE_SHARE of the lease is left, its renewal is late, and the client asks the authority. After the same
time, it repeats a question that has no answer."""

STEP_SECONDS = 0.01
"""The shortest time between two steps."""

EXPIRY_SECONDS = 1.0
"""How often sessions are compared with the time of their expiry."""

STALL_SECONDS = 0.25
"""A step that is later than this shows that the process was suspended. It then asks before it ends subscriptions."""


class _Watched:
    """A token, and its subscriptions with their callbacks.

    Attributes:
        token: The token.
        subjects: Its session and its user, as changes name them. Empty until the first answer.
        until: When the confirmation by a call ends, on the lease clock.
        is_covered: Whether the stream confirms it.
        has_changed: Whether a change arrived after the latest answer.
        dead_at: From this time on, the session may be expired, and only calls confirm it.
        asked_at: When the client last asked the authority.
        subscriptions: The subscriptions, each with its callback; None while `on_end` still runs.
    """

    __slots__ = (
        "asked_at",
        "dead_at",
        "has_changed",
        "is_covered",
        "subjects",
        "subscriptions",
        "token",
        "until",
    )

    def __init__(self, token: str) -> None:
        self.token = token
        self.subjects: tuple[Subject, ...] = ()
        self.until = -math.inf
        self.is_covered = self.has_changed = False
        self.dead_at = math.inf
        self.asked_at = -math.inf
        self.subscriptions: dict[EndSubscription, EndCallback | None] = {}


@final
class EndSubscription:
    """A subscription of `on_end`. It lasts until its session ends, or until `cancel`."""

    __slots__ = ("_endings", "_error", "_key", "_watched")

    def __init__(self, endings: "Endings", key: bytes, watched: _Watched) -> None:
        self._endings = endings
        self._key = key
        self._watched = watched
        self._error: SessionAuthorityError | None = None

    def cancel(self) -> None:
        """End the subscription. A callback that has not begun is not called. A second call does nothing."""
        self._endings.cancel(self, self._key, self._watched)

    @property
    def ended(self) -> SessionAuthorityError | None:
        """The error that the callback gets; None while the session may be used.

        This is exact at every moment, even if the process was suspended and its callbacks are late.
        """
        return self._error or self._endings.lapse(self._watched)


@dataclass(frozen=True, slots=True)
class Step:
    """The actions that are due.

    Attributes:
        asked: The tokens to ask the authority about.
        ended: The callbacks to call, each with its error.
        wait_seconds: The longest time until the next step; None if there is nothing to wait for.
        is_last: Whether the client is closed, so that no step follows.
    """

    asked: list[str] = field(repr=False)
    ended: list[tuple[EndCallback, SessionAuthorityError]]
    wait_seconds: float | None
    is_last: bool


def _lapsed() -> SessionAuthorityError:
    return Unavailable("no answer confirmed the session in time")


class Endings:
    """The subscriptions of one event loop, or of the threads of a process."""

    def __init__(
        self,
        lock: threading.Lock,
        lease: Lease,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """Start without subscriptions.

        Args:
            lock: The near cache's lock.
            lease: The near cache's lease.
            clock: Returns the time on the lease clock.
            wake: Requests a step now. It must not wait.
        """
        self._lock = lock
        self._lease = lease
        self._clock = clock
        self._wake = wake
        self._process_id = os.getpid()
        self._watched: dict[bytes, _Watched] = {}
        self._uncovered: dict[bytes, _Watched] = {}
        self._keys: dict[Subject, set[bytes]] = {}
        self._due: dict[EndSubscription, EndCallback] = {}
        self._count = 0
        self._scanned_at = -math.inf
        self._step_at = math.inf
        self._patient_until = -math.inf
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    # Called by subscribers.

    def arm(self, subscription: EndSubscription, callback: EndCallback) -> None:
        """Give a subscription its callback, after an answer has confirmed its token.

        Raises:
            SessionAuthorityError: The session has ended meanwhile, the answer is too old, or the client was closed.
        """
        watched = subscription._watched
        with self._lock:
            error = subscription._error or self.lapse(watched)
            if error is not None:
                raise error
            watched.subscriptions[subscription] = callback
        self._wake()

    def is_confirmed(self, subscription: EndSubscription) -> bool:
        """Say whether a token needs no question now."""
        watched = subscription._watched
        is_known = bool(watched.subjects) and not watched.has_changed
        return is_known and self._clock() < self._confirmed_until(watched)

    def cancel(self, subscription: EndSubscription, key: bytes, watched: _Watched) -> None:
        """Remove a subscription."""
        if (
            os.getpid() != self._process_id
        ):  # the lock may have been copied while another thread held it
            return
        with self._lock:
            self._due.pop(subscription, None)
            if subscription not in watched.subscriptions:
                return
            del watched.subscriptions[subscription]
            self._count -= 1
            if not watched.subscriptions:
                self._forget(key, watched)

    def lapse(self, watched: _Watched) -> SessionAuthorityError | None:
        """Return an error if the confirmation of a token is over."""
        if self._clock() < self._confirmed_until(watched):
            return None
        return _lapsed()

    def step(self) -> Step:
        """Return the actions that are due. Subscriptions that are no longer confirmed end."""
        with self._lock:
            now = self._clock()
            self._note_stall(now)
            asked: list[str] = []
            next_at = self._scan(now)
            late_at = self._lease.until - self._lease.seconds / LATE_SHARE
            if now < late_at:
                candidates, next_at = self._uncovered, min(next_at, late_at)
            else:
                candidates = self._watched
            for key, watched in [*candidates.items()]:
                if not watched.subjects:  # `on_end` asks
                    continue
                until = max(self._confirmed_until(watched), self._patient_until)
                if now >= until:
                    self._end(key, watched, _lapsed)
                    continue
                ask_at = self._ask_at(watched)
                if now >= ask_at and len(asked) < QUESTIONS_LIMIT:
                    asked.append(watched.token)
                    watched.asked_at = now
                    ask_at = self._ask_at(watched)
                next_at = min(next_at, until, ask_at)
            wait = max(next_at - now, STEP_SECONDS) if self._watched else None
            self._step_at = math.inf if wait is None else now + wait
            ended = [
                (callback, subscription._error)
                for subscription, callback in self._due.items()
                if subscription._error is not None
            ]
            self._due.clear()
            return Step(asked, ended, wait, self._is_closed)

    # Called by the near cache, which holds the lock.

    def add(self, key: bytes, token: str) -> EndSubscription:
        """Add a subscription. `arm` must follow.

        Raises:
            Unavailable: There are too many subscriptions.
            ClientClosed: The client is closed.
        """
        if self._is_closed:
            raise ClientClosed
        if self._count >= SUBSCRIPTIONS_LIMIT:
            raise Unavailable(
                f"on_end already has {SUBSCRIPTIONS_LIMIT:,} subscriptions, its limit: cancel those of connections "
                "that are closed"
            )
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = self._uncovered[key] = _Watched(token)
        subscription = EndSubscription(self, key, watched)
        watched.subscriptions[subscription] = None
        self._count += 1
        return subscription

    def answered(
        self,
        key: bytes,
        session: Session,
        *,
        sent_at: float,
        dead_at: float,
        is_overtaken: bool,
        is_cached: bool,
    ) -> None:
        """Take a live answer about a token.

        Args:
            key: The token's key.
            session: The answer.
            sent_at: When its call was sent.
            dead_at: When the near cache must stop answering with it.
            is_overtaken: Whether a change arrived during the call.
            is_cached: Whether the near cache may use it.
        """
        watched = self._watched.get(key)
        if watched is None:
            return
        if not watched.subjects:
            watched.subjects = (session.session_id, (session.user_id,))
            for subject in watched.subjects:
                self._keys.setdefault(subject, set()).add(key)
        watched.dead_at = dead_at
        watched.until = max(watched.until, sent_at + self._lease.seconds)
        if is_overtaken:
            self.changed((key,))
            return
        watched.has_changed = False
        if is_cached:
            watched.is_covered = True
            self._uncovered.pop(key, None)

    def rejected(self, key: bytes, rejection: Rejection) -> None:
        """End the subscriptions of a token that the authority rejected."""
        if (watched := self._watched.get(key)) is not None:
            self._end(key, watched, lambda: SessionNotLive(rejection.reason, rejection=rejection))

    def changed(self, subjects: Iterable[Subject]) -> None:
        """Ask about the tokens of subjects that have changed."""
        for subject in subjects:
            keys = (subject,) if isinstance(subject, bytes) else self._keys.get(subject, ())
            for key in keys:
                if (watched := self._watched.get(key)) is not None:
                    self._uncover(key, watched)
                    watched.has_changed, watched.asked_at = True, -math.inf
                    self._wake()

    def changed_all(self) -> None:
        """Ask about all tokens."""
        self.changed([*self._watched])

    def stream_lost(self) -> None:
        """Stop relying on the stream, which is lost. Call this before the lease is ended."""
        for key, watched in self._watched.items():
            self._uncover(key, watched)
        self._wake()

    def close(self) -> None:
        """End all subscriptions, because the client is closed."""
        self._is_closed = True
        for key, watched in [*self._watched.items()]:
            self._end(key, watched, ClientClosed)
        self._wake()

    # Internal.

    def _confirmed_until(self, watched: _Watched) -> float:
        if not watched.subjects:
            return math.inf  # `on_end` has not returned yet
        return max(watched.until, self._lease.until) if watched.is_covered else watched.until

    def _ask_at(self, watched: _Watched) -> float:
        repeat_at = watched.asked_at + self._lease.seconds / LATE_SHARE
        if watched.has_changed:
            return repeat_at
        share = LATE_SHARE if watched.is_covered else POLL_SHARE
        return max(repeat_at, self._confirmed_until(watched) - self._lease.seconds / share)

    def _scan(self, now: float) -> float:
        """Find the sessions that may be expired, once in a while. Return when to do so again."""
        if now >= self._scanned_at + EXPIRY_SECONDS:
            self._scanned_at = now
            for key, watched in self._watched.items():
                if watched.is_covered and now >= watched.dead_at:
                    self._uncover(key, watched)
        return self._scanned_at + EXPIRY_SECONDS

    def _note_stall(self, now: float) -> None:
        # Grant the extra time at most once per lease, even if the process is suspended again and again.
        if now > self._step_at + STALL_SECONDS and now > self._patient_until + self._lease.seconds:
            self._patient_until = now + self._lease.seconds / LATE_SHARE

    def _uncover(self, key: bytes, watched: _Watched) -> None:
        watched.until = self._confirmed_until(watched) if watched.subjects else watched.until
        watched.is_covered = False
        self._uncovered[key] = watched

    def _end(
        self, key: bytes, watched: _Watched, error: Callable[[], SessionAuthorityError]
    ) -> None:
        # Each subscription gets its own error, because raising an exception changes it.
        for subscription, callback in watched.subscriptions.items():
            subscription._error = error()
            if callback is not None:
                self._due[subscription] = callback
        self._count -= len(watched.subscriptions)
        watched.subscriptions.clear()
        self._forget(key, watched)
        self._wake()

    def _forget(self, key: bytes, watched: _Watched) -> None:
        if self._watched.get(key) is not watched:
            return
        del self._watched[key]
        self._uncovered.pop(key, None)
        for subject in watched.subjects:
            keys = self._keys[subject]
            keys.discard(key)
            if not keys:
                del self._keys[subject]
