"""The near cache without any I/O: what arrives goes in with its time, what is to be done comes out.

The drivers move it. It reads no clock, draws no random number and starts nothing, so that a test or a model
can play every order of events against the very code that runs.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from session_authority._conversion import is_address
from session_authority.near_cache.activity import (
    RETRY_SHARE,
    Expiry,
    due_at,
    resolution_seconds,
)
from session_authority.near_cache.entries import Decode, Entries, Entry
from session_authority.near_cache.flights import Flight, Flights, Subject
from session_authority.near_cache.lease import Lease
from session_authority.near_cache.options import NearCache, NearCacheStatistics
from session_authority.session import IpAddress, Rejection, RejectionReason, Session
from session_authority.session_token import Token, presentable

_USER_MISMATCH = Rejection(RejectionReason.USER_MISMATCH)


@dataclass(frozen=True, slots=True)
class Due:
    """A report that is due: that a kept session is in use, and from where."""

    token: str = field(repr=False)
    ip_address: str | None = None


class NearCacheCore:
    """Keeps answers, and says of each whether it may be used.

    Everything but a hit takes the lock, and so does a hit once a second, or where a report is due. Nothing waits
    while it is held.

    Args:
        settings: What the app chose.
        decode: Makes a session of the bytes that `answer_received` was given with it.
        on_due: Is told of each report that is due, by whoever looked the session up. It must not wait.
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
        self._problem: str | None = None
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._displacements = 0
        self._revalidations = 0

    # What an app asks.

    def lookup(
        self,
        now: float,
        token: Token,
        ip_address: IpAddress = None,
        user_id: str | None = None,
        passive: bool = False,
    ) -> Session | Rejection | None:
        """Answer for a token from memory, or give None where the authority is to be asked.

        Args:
            now: A reading of the clock of the lease that is *older* than this call. Then a thread that is
                stopped anywhere in here answers for the moment of the reading, at which the lease was running and
                every change from before the lease had been applied.
            token: As in `SessionClient.validate`, and so are the others.
            ip_address: The latest IP address.
            user_id: Whose session it must be.
            passive: Whether this doesn't count as activity.
        """
        if now >= self._lease.until:
            self._misses += 1
            return None
        text = token if type(token) is str else presentable(token)
        if not text:
            return None
        try:
            key = blake2b(text.encode()).digest()  # key_of(), without the call
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
            # An empty one is an app's mistake, which is told by whoever makes the call.
            return _USER_MISMATCH if user_id else None
        if now >= entry.look_at and not self._check_entry(now, key, text, entry, passive):
            self._misses += 1
            return None
        self._hits += 1
        return entry.session

    # What the stream says.

    def stream_opened(self) -> int:
        """Begin a generation, with nothing kept, and give its number."""
        with self._lock:
            self._forget_everything()
            self._expiry = Expiry()
            return self._lease.begin()

    def ping_sent(self, generation: int, now: float) -> int | None:
        """Give the id for a ping that is sent after `now`; None where the generation is over."""
        with self._lock:
            return self._lease.ping(now) if generation == self._lease.generation else None

    def pong_received(self, generation: int, ping_id: int, lease_seconds: float) -> None:
        """Renew the lease. Everything that came before on the stream must have been told."""
        with self._lock:
            if generation == self._lease.generation and self._lease.pong(ping_id, lease_seconds):
                self._problem = None

    def evict_received(
        self, session_ids: Iterable[str], user_ids: Iterable[str], everything: bool
    ) -> None:
        """Forget sessions, and distrust the answers about them that are on their way."""
        session_ids, user_ids = list(session_ids), list(user_ids)
        with self._lock:
            if everything:
                self._flights.invalidate_all()
                self._evictions += self._entries.clear()
                return
            subjects: list[Subject] = [*session_ids, *((user_id,) for user_id in user_ids)]
            self._flights.invalidate(subjects)
            self._evictions += sum(map(self._entries.remove_session, session_ids))
            self._evictions += sum(map(self._entries.remove_user, user_ids))

    def stream_lost(self, generation: int, problem: str | None = None) -> bool:
        """End a generation: nothing that was kept in it may be used any more.

        Returns:
            Whether it was the latest one, so that another stream is wanted.
        """
        with self._lock:
            if generation != self._lease.generation:
                return False
            self._forget_everything()
            self._problem = problem
            return True

    def pause_seconds(self, random: float) -> float:
        """Give the time to the next ping, from a random number between 0 and 1."""
        with self._lock:
            return self._lease.pause_seconds(random)

    def is_stale(self, generation: int, now: float) -> bool:
        """Say whether a stream is to be given up, because it is over or no longer answers."""
        with self._lock:
            return generation != self._lease.generation or self._lease.is_stale(now)

    # What validations say.

    def rpc_sent(self, now: float, wall_time: float) -> Flight:
        """Note that a call that validates is about to be sent. `rpc_done` has to follow."""
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
        """Keep the answer to a validation, unless it may be out of date already; say whether it was kept.

        Args:
            flight: What `rpc_sent` gave.
            key: The token's.
            session: The answer.
            encoded: The answer as bytes.
            now: A reading of the clock of the lease since the answer arrived.
            ip_address: The address that the app gave with the question; None where it gave none, or where
                the question was a report that was due: an address given meanwhile is the later one.
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
            if (
                flight.generation != self._lease.generation
                or not self._lease.established
                or self._flights.is_invalidated(flight, subjects)
            ):
                return False
            dead_at = self._expiry.dead_at(session, flight.sent_at, flight.wall_time)
            if now >= dead_at:
                return False
            earlier = self._entries.get(key)
            if ip_address is None and earlier is not None:
                ip_address = earlier.ip_address
            entry = Entry(session, encoded, dead_at, due, ip_address)
            self._displacements += self._entries.put(key, entry)
            return True

    def rejection_received(self, key: bytes, rejection: Rejection) -> None:
        """Forget what is kept under a token that was rejected: a session that is dead stays so."""
        if rejection.reason is not RejectionReason.USER_MISMATCH:
            self.token_ended(key)

    def rpc_done(self, flight: Flight) -> None:
        """Note that a call is over and all of its answers have been given."""
        with self._lock:
            self._flights.end(flight)

    # What this client itself has changed.

    def token_ended(self, key: bytes) -> None:
        """Forget a token and its session, and distrust the answers about it that are on their way."""
        with self._lock:
            self._flights.invalidate((key,))
            self._evictions += self._entries.remove(key)

    def others_ended(self, key: bytes) -> None:
        """Forget the sessions of the user behind a token; everybody's, where that user isn't known."""
        with self._lock:
            entry = self._entries.get(key)
            user_id = None if entry is None else entry.user_id
        if user_id is None:
            self.evict_received((), (), everything=True)
        else:
            self.evict_received((), (user_id,), everything=False)

    # What can be read.

    def statistics(self, now: float) -> NearCacheStatistics:
        """Say what is kept and what has been done."""
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
        # First the lease: a look-up in another thread doesn't take the lock.
        self._lease.end()
        self._evictions += self._entries.clear()

    def _promoted(self, key: bytes) -> Entry | None:
        with self._lock:
            return self._entries.get(key)

    def _check_entry(self, now: float, key: bytes, token: str, entry: Entry, passive: bool) -> bool:
        """Do what an entry's use asks for but now and then; say whether it may still be used."""
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
            # Should the report fail, the next use repeats it.
            resolution = resolution_seconds(entry.session, self._activity_seconds)
            entry.due_at = now + resolution / RETRY_SHARE
            self._revalidations += 1
        self._on_due(Due(token, entry.ip_address))


def _accept_address(entry: Entry, ip_address: IpAddress) -> bool:
    """Take over another address, unless it is none: then the authority is to say what is wrong with it."""
    text = str(ip_address)
    if not text or text == entry.ip_address:
        return True
    if not is_address(text):
        return False
    entry.ip_address = text
    return True
