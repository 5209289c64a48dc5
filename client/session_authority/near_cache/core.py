"""The near cache without I/O. It takes events with their times, and returns answers and actions.

The drivers do the I/O. This code reads no clock, draws no random number and starts no task, so tests and models can
run it with every order of events.
"""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from weakref import WeakSet

from session_authority._conversion import is_address
from session_authority.errors import ClientClosed
from session_authority.near_cache.activity import (
    RETRY_SHARE,
    Expiry,
    due_at,
    resolution_seconds,
)
from session_authority.near_cache.endings import Endings, EndSubscription
from session_authority.near_cache.entries import Decode, Entries, Entry, key_of
from session_authority.near_cache.flights import Flight, Flights, Subject
from session_authority.near_cache.lease import Lease
from session_authority.near_cache.options import NearCache, NearCacheStatistics
from session_authority.session import IpAddress, Rejection, RejectionReason, Session
from session_authority.session_token import Token, presentable

_USER_MISMATCH = Rejection(RejectionReason.USER_MISMATCH)


@dataclass(frozen=True, slots=True)
class Due:
    """A report of use that is due: the session's token, and its latest IP address."""

    token: str = field(repr=False)
    ip_address: str | None = None


class NearCacheCore:
    """Stores answers, and decides whether each may still be used.

    All work is done under a lock, except most hits. A hit takes the lock once a second, and when a report is due. No
    code waits while it holds the lock.

    Args:
        settings: The app's settings of the near cache.
        decode: Decodes the `encoded` session that `answer_received` was given.
        on_due: Sends a report of use that is due. `lookup` calls it. It must not wait.
    """

    def __init__(self, settings: NearCache, decode: Decode, on_due: Callable[[Due], None]) -> None:
        self._activity_seconds = settings.activity_seconds
        self._on_due = on_due
        self._lock = threading.Lock()
        self._lease = Lease()
        self._flights = Flights()
        self._entries = Entries(settings.max_sessions, decode)
        self._hot = self._entries.hot
        self._expiry = Expiry()
        self._endings: WeakSet[Endings] = WeakSet()
        self._is_closed = False
        self._problem: str | None = None
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._displacements = 0
        self._revalidations = 0

    # Look-ups of the app.

    def lookup(
        self,
        now: float,
        token: Token,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session | Rejection | None:
        """Return the answer for a token from memory; None if the authority must be asked.

        Args:
            now: The lease clock, read *before* this call. A thread may be paused anywhere in this method. Its answer
                is still right for the time of the reading: the lease was valid, and all earlier changes were applied.
            token: The token. It and the other arguments are those of `SessionClient.validate`.
            ip_address: The IP address that the token came from.
            user_id: The user that the session must belong to.
            passive: Whether the look-up doesn't count as activity.
        """
        if now >= self._lease.until:
            self._misses += 1
            return None
        text = token if type(token) is str else presentable(token)
        if not text:
            return None
        try:
            key = blake2b(text.encode()).digest()  # `key_of` inlined, for speed
        except UnicodeEncodeError:
            return None
        entry = self._hot.get(key)
        if entry is None:
            entry = self._promoted(key)
        if entry is None or (
            ip_address is not None
            and ip_address != entry.ip_address
            and not _accept_address(entry, ip_address)
        ):
            self._misses += 1
            return None
        if user_id is not None and user_id != entry.user_id and now < entry.dead_at:
            # An empty id is an app's mistake. The call to the authority then raises the error.
            return _USER_MISMATCH if user_id else None
        if now >= entry.check_at and not self._check_entry(now, key, text, entry, passive):
            self._misses += 1
            return None
        self._hits += 1
        return entry.session

    # Events of the stream.

    def stream_opened(self) -> int:
        """Begin a generation with an empty cache, and return its number."""
        with self._lock:
            self._forget_everything()
            self._expiry = Expiry()
            return self._lease.begin()

    def ping_sent(self, generation: int, now: float) -> int | None:
        """Return the id of a ping that is sent after `now`; None if the generation is over."""
        with self._lock:
            return self._lease.ping(now) if generation == self._lease.generation else None

    def pong_received(self, generation: int, ping_id: int, lease_seconds: float) -> None:
        """Renew the lease. All earlier messages of the stream must have been applied before."""
        with self._lock:
            if generation == self._lease.generation and self._lease.pong(ping_id, lease_seconds):
                self._problem = None

    def evict_received(
        self, session_ids: Iterable[str], user_ids: Iterable[str], everything: bool
    ) -> None:
        """Remove sessions, and discard answers about them that are still in flight."""
        session_ids, user_ids = list(session_ids), list(user_ids)
        with self._lock:
            if everything:
                self._flights.invalidate_all()
                self._evictions += self._entries.clear()
                for endings in self._endings:
                    endings.changed_all()
                return
            subjects: list[Subject] = [*session_ids, *((user_id,) for user_id in user_ids)]
            self._flights.invalidate(subjects)
            for endings in self._endings:
                endings.changed(subjects)
            self._evictions += sum(map(self._entries.remove_session, session_ids))
            self._evictions += sum(map(self._entries.remove_user, user_ids))

    def stream_lost(self, generation: int, problem: str | None = None) -> bool:
        """End a generation and remove its entries.

        Returns:
            Whether it was the latest generation, so that the driver must open another stream.
        """
        with self._lock:
            if generation != self._lease.generation:
                return False
            self._forget_everything()
            self._problem = problem
            return True

    def pause_seconds(self, random: float) -> float:
        """Return the seconds until the next ping, from a random number between 0 and 1."""
        with self._lock:
            return self._lease.pause_seconds(random)

    def is_stale(self, generation: int, now: float) -> bool:
        """Say whether to close a stream: a newer one has begun, or it no longer answers pings."""
        with self._lock:
            return generation != self._lease.generation or self._lease.is_stale(now)

    # Events of validations.

    def rpc_sent(self, now: float, wall_time: float) -> Flight:
        """Record that a validating call is about to be sent. `rpc_done` must follow."""
        with self._lock:
            generation = self._lease.generation if self._lease.established else None
            return self._flights.begin(generation, now, wall_time)

    def answer_received(
        self,
        flight: Flight,
        key: bytes,
        session: Session,
        encoded: bytes,
        *,
        now: float,
        ip_address: str | None,
        passive: bool,
    ) -> bool:
        """Store the answer to a validation, unless it may already be outdated. Return whether it was stored.

        Args:
            flight: The result of `rpc_sent`.
            key: The token's key.
            session: The answer.
            encoded: The answer as bytes.
            now: The lease clock, read after the answer arrived.
            ip_address: The address that the app gave with the question; None if it gave none. Also None for a report
                of use, because the entry may have a later address by now.
            passive: Whether the call reported no use.
        """
        if passive:
            due = flight.sent_at
        else:
            resolution = resolution_seconds(session, self._activity_seconds)
            due = due_at(session, resolution, flight.sent_at, flight.wall_time)
        subjects: tuple[Subject, ...] = (session.session_id, (session.user_id,), key)
        with self._lock:
            self._expiry.learn(session, now)
            dead_at = self._expiry.dead_at(session, flight.sent_at, flight.wall_time)
            is_overtaken = self._flights.is_invalidated(flight, subjects)
            may_cache = (
                flight.generation == self._lease.generation
                and self._lease.established
                and not is_overtaken
                and now < dead_at
            )
            for endings in self._endings:
                endings.answered(
                    key,
                    session,
                    sent_at=flight.sent_at,
                    dead_at=dead_at,
                    is_overtaken=is_overtaken,
                    is_cached=may_cache,
                )
            if not may_cache:
                return False
            earlier = self._entries.get(key)
            if ip_address is None and earlier is not None:
                ip_address = earlier.ip_address
            entry = Entry(session, encoded, dead_at, due, ip_address)
            self._displacements += self._entries.put(key, entry)
            return True

    def rejection_received(self, key: bytes, rejection: Rejection) -> None:
        """Remove the entry of a rejected token, unless only the user differs. A dead session never becomes live again."""
        if rejection.reason is not RejectionReason.USER_MISMATCH:
            with self._lock:
                for endings in self._endings:
                    endings.rejected(key, rejection)
            self.token_ended(key)

    def rpc_done(self, flight: Flight) -> None:
        """Record that a call has ended and all its answers have been received."""
        with self._lock:
            self._flights.end(flight)

    # Changes by this client.

    def token_ended(self, key: bytes) -> None:
        """Remove the entry of a token, and discard answers about the token that are still in flight."""
        with self._lock:
            self._flights.invalidate((key,))
            self._evictions += self._entries.remove(key)
            for endings in self._endings:
                endings.changed((key,))

    def others_ended(self, key: bytes) -> None:
        """Remove the cached sessions of a token's user. If the user is not known, remove all sessions."""
        with self._lock:
            entry = self._entries.get(key)
            user_id = None if entry is None else entry.user_id
        if user_id is None:
            self.evict_received((), (), everything=True)
        else:
            self.evict_received((), (user_id,), everything=False)

    # Subscriptions to the ends of sessions.

    def new_endings(self, clock: Callable[[], float], wake: Callable[[], None]) -> Endings:
        """Return an empty set of subscriptions. It gets the events of this near cache for as long as it is referenced.

        Raises:
            ClientClosed: The client is closed.
        """
        with self._lock:
            if self._is_closed:
                raise ClientClosed
            endings = Endings(self._lock, self._lease, clock, wake)
            self._endings.add(endings)
            return endings

    def subscribe(self, endings: Endings, now: float, token: str) -> EndSubscription:
        """Add a subscription. A cached answer confirms its token.

        Raises:
            Unavailable: There are too many subscriptions.
            ClientClosed: The client is closed.
        """
        key = key_of(token)
        with self._lock:
            subscription = endings.add(key, token)
            entry = self._entries.get(key) if now < self._lease.until else None
            if entry is not None and now < entry.dead_at:
                endings.answered(
                    key,
                    entry.session,
                    sent_at=-math.inf,
                    dead_at=entry.dead_at,
                    is_overtaken=False,
                    is_cached=True,
                )
            return subscription

    def close(self) -> None:
        """Forget everything, and end all subscriptions."""
        self.stream_opened()
        with self._lock:
            self._is_closed = True
            for endings in self._endings:
                endings.close()

    # Statistics.

    def statistics(self, now: float) -> NearCacheStatistics:
        """Return the state of the cache and its counters."""
        with self._lock:
            lease = self._lease
            established = lease.established
            return NearCacheStatistics(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                displacements=self._displacements,
                revalidations=self._revalidations,
                size=len(self._entries),
                connected=established,
                lease_age_seconds=now - lease.renewed_at if established else None,
                lease_seconds=lease.seconds if established else None,
                problem=self._problem,
            )

    def _forget_everything(self) -> None:
        for endings in self._endings:
            endings.stream_lost()
        # End the lease first: a look-up in another thread does not take the lock.
        self._lease.end()
        self._evictions += self._entries.clear()

    def _promoted(self, key: bytes) -> Entry | None:
        with self._lock:
            return self._entries.get(key)

    def _check_entry(self, now: float, key: bytes, token: str, entry: Entry, passive: bool) -> bool:
        """Return whether an entry is valid. If so, mark it as used, and report the use if a report is due."""
        if now >= entry.dead_at:
            return False
        if now >= entry.due_at and not passive:
            self._report_use(now, token, entry)
        with self._lock:
            self._entries.note_use(key, entry, now)
        return True

    def _report_use(self, now: float, token: str, entry: Entry) -> None:
        with self._lock:
            if now < entry.due_at:  # another thread was first
                return
            # If the report fails, a later use repeats it.
            resolution = resolution_seconds(entry.session, self._activity_seconds)
            entry.due_at = now + resolution / RETRY_SHARE
            self._revalidations += 1
        self._on_due(Due(token, entry.ip_address))


def _accept_address(entry: Entry, ip_address: IpAddress) -> bool:
    """Store a new address in an entry. Return False for an invalid one, which the authority must reject."""
    text = str(ip_address)
    if not text or text == entry.ip_address:
        return True
    if not is_address(text):
        return False
    entry.ip_address = text
    return True
