"""What the authority needs from its stores, its audit log and its listeners.

Every method of every store:

* sees every commit that was answered before the method began;
* has committed durably when it returns, and may or may not have when it raises StoreUnavailable;
* commits even if the task that awaits it was cancelled;
* notifies caches (`Listener`, or the engine's notifications) of every change that invalidates a token, except by the
  session's own times, before it returns, and never of what was rolled back;
* raises StoreUnavailable rather than wait without bound;
* means by "live" what `domain.liveness.is_live` says at the given `now`.

`tests/contract/` holds the suite that every store must pass.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar
from uuid import UUID

from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission
from session_authority_server.domain.event import Event, SessionEnded
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import Changes, Ending, Session, Sweep

T = TypeVar("T")

# How many sessions one statement reads, touches or ends at most.
BATCH_LIMIT = 1_000
# How many events `Audit.wait_for_room` makes room for.
EVENTS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Touch:
    """An activity to record."""

    session_id: UUID
    time: datetime
    ip_address: str | None


class TouchesSkipped(Exception):
    """Others kept the sessions of some activities (`skipped`) locked. All other activities were recorded."""

    def __init__(self, skipped: Sequence[Touch]) -> None:
        super().__init__(f"{len(skipped)} activities could not be recorded")
        self.skipped = skipped


@dataclass(frozen=True, slots=True)
class PageKey:
    """Where a page of a user's sessions ended: the sort key of its last row."""

    time: datetime
    session_id: UUID


@dataclass(frozen=True, slots=True)
class UserStanding:
    """When a user's sessions were last ended all at once, by a sweep of the user or of everybody."""

    swept_time: datetime | None


@dataclass(frozen=True, slots=True)
class ExpiryBatch:
    """What one step of the expiry did."""

    count: int  # how many sessions had ended
    ended: Sequence[SessionEnded]  # the recorded endings, and the expired sessions if named
    examined: int  # how many sessions are done with; 0 if there is nothing to do for now
    busy: bool = False  # whether another caller was at it, so that this one did nothing


@dataclass(frozen=True, slots=True)
class PendingSweep:
    """A sweep whose endings are not all recorded: of a user, or of everybody if the user id is empty."""

    user_id: str
    epoch: int  # the epoch that the sweep began


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """What one step through a sweep did."""

    ended: Sequence[SessionEnded]  # the recorded endings
    left: int  # how many sessions were left out because others were changing them
    last: UUID | None  # the id to continue after; None at the end


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """An erasure of a user that may have left something."""

    user_id: str
    epoch: int  # the user's epoch that the erasure began; it deletes sessions of earlier ones


@dataclass(frozen=True, slots=True)
class ErasureBatch:
    """What one step of an erasure did."""

    deleted: int  # how many rows
    complete: bool  # whether nothing is left


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """What one step through the sessions that a key made did."""

    ended: Sequence[SessionEnded]
    last: UUID | None  # the id to continue after; None at the end


class Listener(Protocol):
    """Learns of each change in its process that invalidates a token. Its methods neither wait nor raise."""

    def committing(self) -> None:
        """Learn that a change is about to be committed. `committed` will follow with the outcome."""

    def committed(self, changes: Changes, *, certain: bool) -> None:
        """Learn that a change was committed or, if that is not certain, that it may have been or may yet be."""


class Audit(Protocol):
    """Where events are recorded."""

    def record(self, *events: Event) -> None:
        """Record events that happened, in order. Never waits and never raises."""

    async def wait_for_room(self) -> None:
        """Wait, for upkeep, until EVENTS_AT_ONCE can be recorded without loss, but only for some seconds."""


class _Nowhere:
    def record(self, *events: Event) -> None:
        pass

    async def wait_for_room(self) -> None:
        pass


NOWHERE: Final[Audit] = _Nowhere()


class Transaction(Protocol):
    """What can be done in one transaction. All of it happens, or none."""

    def record(self, *events: Event) -> None:
        """Record events in the audit log once the transaction is committed, and never if it is rolled back."""

    async def lock_user(self, user_id: str) -> UserStanding:
        """Lock a user, before anything that depends on the user's sessions, and return the user's standing."""

    async def read_session(self, session_id: UUID, of_user: str | None = None) -> Session | None:
        """Return a session, or None if there is none or it belongs to a user other than `of_user`."""

    async def live_over_limit(self, user_id: str, now: datetime, keep: int) -> Sequence[UUID]:
        """Return the user's live sessions except the `keep` most recently active ones."""

    async def insert_session(self, session: Session) -> Session:
        """Add a session and return it with the epochs that it was given.

        The statement that inserts also reads the epochs. A sweep that commits after any earlier read therefore
        either covers the session or was seen by it.
        """

    async def end_live_over_limit(
        self, user_id: str, now: datetime, keep: int, ending: Ending
    ) -> Sequence[UUID]:
        """End all of the user's live sessions except the `keep` most recently active ones."""

    async def end_made_by(
        self, key_id: str, now: datetime, after: UUID, limit: int, ending: Ending
    ) -> KeyBatch:
        """End the live sessions that an API key made, in the order of ids. Looks at `limit` sessions at most."""

    async def end_session(self, session_id: UUID, ending: Ending) -> bool:
        """Record how a session ended, unless an ending is recorded already. Return whether it was recorded."""

    async def renew_session(self, session: Session, *, replaces: bytes) -> bool:
        """Write a re-authenticated session, and return True, if its secret hash is `replaces` and it has no ending."""

    async def sweep_user(self, user_id: str, sweep: Sweep) -> None:
        """End every session of a locked user, by increasing the user's epoch."""

    async def sweep_everybody(self, sweep: Sweep) -> None:
        """End every session of every user, by increasing the common epoch."""

    async def correct_swept_time(self, user_id: str, now: datetime) -> None:
        """Set the times of a locked user's sweeps to `now` if they are later by more than TOLERATED_SKEW."""

    async def begin_erasure(self, user_id: str, time: datetime) -> PendingErasure:
        """Note that a locked user, whose sessions were just swept, is to be erased.

        If the user's row is deleted and the id signs in again, the new row begins with the present epoch, and
        rejects sign-ins that began before `time`.
        """

    async def exempt_from_sweep(self, session_id: UUID) -> None:
        """Move a session to its user's current epoch."""

    async def read_attempt(self, retry_hash: bytes) -> AnsweredAttempt | None:
        """Return what is kept of a repeatable call, or None. It may have expired."""

    async def write_attempt(self, attempt: AnsweredAttempt) -> None:
        """Keep what is needed to repeat a call, and replace anything under the same hash."""


class SessionStore(Protocol):
    """Where sessions are kept."""

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        """Return those of at most BATCH_LIMIT sessions that exist, in one read outside a transaction."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run work in one transaction, commit it, and return the work's result.

        An exception of the work rolls the transaction back and is raised here. The store may run the work again
        from the start, so the work must have no other effect.

        The events of the transaction are recorded as soon as it is committed, even if its caller was cancelled,
        and before those of a transaction of this store that had to wait for this one. Nothing is recorded if the
        outcome is not known.
        """

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        """Move last-active times and latest IP addresses forward, and return how many sessions moved.

        Never moves a time back, and never touches a session that is not live at `now()`. The store calls `now`
        when the write's turn has come: a session that was live before the wait may be dead after it.

        Raises:
            TouchesSkipped: If others kept sessions locked for a third of a second. All other sessions were touched.
        """

    async def list_live(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's live sessions after a key, the most recently active first, then by id."""

    async def count_live(self, user_id: str, now: datetime, limit: int) -> int:
        """Return how many live sessions a user has, counting to `limit` at most."""

    async def list_used_since(
        self,
        user_id: str,
        now: datetime,
        made_until: datetime,
        used_since: datetime,
        after: PageKey | None,
        limit: int,
    ) -> Sequence[Session]:
        """Return a user's live sessions made up to one time and used after another, ordered as by list_live."""

    async def list_ended(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's sessions, after a key, that ended (recorded or implied), the latest first, then by id."""

    async def erase_some(self, erasure: PendingErasure, limit: int) -> ErasureBatch:
        """Delete at most `limit` of the sessions that an erasure covers, and everything else once none is left.

        The user's row goes last, and stays if the user has signed in again. No erasure is complete while a later
        one of the same user is pending.
        """


class UpkeepStore(Protocol):
    """What the workers need from the store. Each method is one small step, safe to repeat and to kill.

    `committed` receives a batch as soon as it is committed, even if the caller was cancelled. It neither waits nor
    raises. Methods that count stop at `limit`.
    """

    async def note_clock_time(self, now: datetime, longest: timedelta) -> datetime | None:
        """Note that the clock is right if the last note is at most `longest` ago. Return that note, or None."""

    async def end_overdue(
        self,
        now: datetime,
        limit: int,
        *,
        named: bool = False,
        committed: Callable[[ExpiryBatch], None] | None = None,
    ) -> ExpiryBatch:
        """Go through the next overdue sessions, at most `limit`, each of them once.

        * Records endings by idleness or a sweep, which could look different later. A row always says that its
          lifetime is over; such sessions are only counted and, if `named`, returned, which doubles the cost. A
          store that erases addresses at the end records these endings too, because it writes the rows anyway.
        * Two callers never work on the same session at the same time.
        * Skips a live session until it could be due. Looks at a session that others are changing, and at all after
          it, the next time.
        * Never looks at a session that appears behind its position, committed late or by a slow clock. The ending
          of such a session stays implied, and purge_ended deletes it like any other.
        * May repeat its last batch after the engine crashed.
        """

    async def count_overdue(self, now: datetime, limit: int) -> int:
        """Return how many sessions end_overdue would end."""

    async def oldest_overdue(self, now: datetime) -> datetime | None:
        """Return since when the next session that end_overdue looks at is overdue, or None."""

    async def pending_sweeps(
        self, limit: int, everybodys_before: datetime | None = None
    ) -> Sequence[PendingSweep]:
        """Return the latest sweep of each user that is not settled, the oldest first.

        Returns sweeps of everybody only if they are earlier than `everybodys_before`. Such a sweep locks no user:
        a session that began before it can appear after it, for as long as a transaction can last.
        """

    async def end_swept(
        self,
        sweep: PendingSweep,
        now: datetime,
        after: UUID | None,
        limit: int,
        *,
        committed: Callable[[SweepBatch], None] | None = None,
    ) -> SweepBatch:
        """Record the endings that a sweep implies, except of expired sessions, looking at `limit` ids at most."""

    async def count_swept(self, sweep: PendingSweep, limit: int) -> int:
        """Return how many sessions end_swept would end."""

    async def settle_sweep(self, sweep: PendingSweep) -> None:
        """Note that the endings of a sweep, and of the same user's earlier sweeps, have been recorded."""

    async def purge_sweeps(self, swept_before: datetime, limit: int) -> int:
        """Delete at most `limit` settled sweeps that are older, and return how many."""

    async def purge_ended(
        self, ended_before: datetime, limit: int, made_before: datetime | None = None
    ) -> int:
        """Delete at most `limit` sessions that ended or expired earlier, and return how many.

        If sessions are kept in partitions, leaves out those made in the last partition before `made_before`: that
        partition is about to be dropped.
        """

    async def count_purgeable(self, ended_before: datetime, limit: int) -> int:
        """Return how many sessions purge_ended would delete."""

    async def pending_erasures(self, limit: int) -> Sequence[PendingErasure]:
        """Return erasures that are not complete, the oldest first."""

    async def purge_erasures(self, erased_before: datetime, limit: int) -> int:
        """Delete the hashes of at most `limit` users who were erased earlier, and return how many."""

    async def forget_attempts(self, now: datetime, limit: int) -> int:
        """Delete at most `limit` repeatable calls whose window has closed, and return how many."""

    async def count_attempts(self, now: datetime, limit: int) -> int:
        """Return how many repeatable calls forget_attempts would delete."""

    async def missing_partitions(self, now: datetime) -> Sequence[datetime]:
        """Return the ends of the partitions that are yet to be made; none if sessions are not kept in partitions."""

    async def old_partitions(self, made_before: datetime, ended_before: datetime) -> Sequence[str]:
        """Read the partitions made before one time, and return those whose sessions all ended before another."""

    async def make_partition(self, end: datetime) -> bool:
        """Make a missing partition, unless it has been made since. Return whether this call made it."""

    async def drop_partition(self, name: str) -> bool:
        """Drop a partition, unless another call drops it or has dropped it. Return whether this call did."""


class KeyStore(Protocol):
    """Where API keys are kept."""

    async def read_keys(self, ended_after: datetime | None = None) -> Sequence[ApiKey]:
        """Return the keys, the oldest first, without those that ended up to `ended_after`."""

    async def add_key(self, key: ApiKey) -> None:
        """Add a key."""

    async def expire_key(
        self, key_id: UUID, expire_time: datetime, now: datetime, successor: ApiKey | None = None
    ) -> bool:
        """Make a key expire at a time or earlier, and add its successor; False if it is unknown or has ended."""

    async def revoke_key(self, key_id: UUID, revoke_time: datetime) -> bool:
        """Revoke a key, even an expired one. Return False if the key is unknown or already revoked."""

    async def note_key_uses(
        self, uses: Collection[tuple[UUID, Permission]], time: datetime
    ) -> None:
        """Move the last-used times of keys and of their permissions forward, never back. Ignores unknown keys."""

    async def read_key_uses(self) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
        """Return which permissions each key has used, and when."""
