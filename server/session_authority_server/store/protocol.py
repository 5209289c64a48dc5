"""What the authority asks of its store, and what any store owes it.

Obligations that hold for every method:

* Every read sees every commit that was answered before the read began.
* A method that returned has committed durably: what it did survives the death of the process and of the
  machine. One that raised StoreUnavailable may or may not have.
* A commit is not abandoned because the task that awaits it was cancelled.
* Whatever makes a token invalid by anything else than the session's own times is told to those who keep answers
  for a while (`Listener`, or the engine's own notifications), and before the method returns, or by the time of
  the commit. Nothing is told of what was rolled back.
* No method waits without bound: beyond the store's limits it raises StoreUnavailable.
* "Live" means what `domain.liveness.is_live` says, at the `now` that was passed.

`tests/contract/` holds the suite that every store must pass.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar
from uuid import UUID

from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission
from session_authority_server.domain.event import Event, SessionEnded
from session_authority_server.domain.invalidations import Changes
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    Ending,
    Session,
    Sweep,
)

T = TypeVar("T")

# How many sessions one statement reads, touches or ends at most.
BATCH_LIMIT = 1_000

# What `Audit.room` makes room for.
EVENTS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Touch:
    """An activity to record."""

    session_id: UUID
    time: datetime
    ip_address: str | None


class LeftOut(Exception):
    """Some activities could not be recorded, because somebody else kept their sessions locked.

    Attributes:
        left: Those; all others of the same call were recorded.
    """

    def __init__(self, left: Sequence[Touch]) -> None:
        super().__init__(f"{len(left)} activities could not be recorded")
        self.left = left


@dataclass(frozen=True, slots=True)
class PageKey:
    """Where a page of a user's sessions ended: the sort key of its last row."""

    time: datetime
    session_id: UUID


@dataclass(frozen=True, slots=True)
class UserStanding:
    """When a user's sessions were last ended all at once, by a sweep of theirs or of everybody's."""

    swept_time: datetime | None


@dataclass(frozen=True, slots=True)
class ExpiryBatch:
    """What one step of the expiry did.

    Attributes:
        count: How many sessions had ended.
        ended: Which they were, each of them found by no other step; of those that expired, where the caller
            asked for their names.
        examined: How many were looked at for good; none means that there is nothing to do for now.
        busy: Whether somebody else was at it, for which reason nothing was looked at.
    """

    count: int
    ended: Sequence[SessionEnded]
    examined: int
    busy: bool = False


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """What one step through a sweep did.

    Attributes:
        ended: The sessions whose endings were recorded.
        left: How many were left out because somebody else was changing them.
        last: The id to go on after, or None where there are no more.
    """

    ended: Sequence[SessionEnded]
    left: int
    last: UUID | None


@dataclass(frozen=True, slots=True)
class PendingSweep:
    """A sweep whose sessions have not all had their endings recorded.

    Attributes:
        user_id: Whose sessions it covers; empty for everybody's.
        epoch: The epoch that it began.
    """

    user_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """An erasure of a user of whom there may be something left.

    Attributes:
        user_id: Who is erased.
        epoch: The user's epoch that it began; sessions of earlier ones are what is to be deleted.
    """

    user_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ErasureBatch:
    """What one step of an erasure did.

    Attributes:
        deleted: How many rows were deleted.
        complete: Whether nothing is left to do.
    """

    deleted: int
    complete: bool


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """What one step through the sessions that a key made did.

    Attributes:
        ended: The sessions that were ended.
        last: The id to go on after, or None where there are no more.
    """

    ended: Sequence[SessionEnded]
    last: UUID | None


class Listener(Protocol):
    """Who is told, in the process that makes it, of each change that keeps a token from being valid.

    Its methods must neither wait nor raise.
    """

    def committing(self) -> None:
        """Hear that a change is about to be committed, and that `committed` will say how that went."""
        ...

    def committed(self, changes: Changes, *, certain: bool) -> None:
        """Hear of a change that was committed, or, where that is not certain, may have been or may yet be."""
        ...


class Audit(Protocol):
    """Where events are recorded."""

    def record(self, *events: Event) -> None:
        """Record events that happened, in order. Never waits and never raises."""
        ...

    async def room(self) -> None:
        """Wait until EVENTS_AT_ONCE can be recorded without loss, but only for some seconds.

        For upkeep, which can wait. A call never does.
        """
        ...


class _Nowhere:
    def record(self, *events: Event) -> None:
        pass

    async def room(self) -> None:
        pass


NOWHERE: Final[Audit] = _Nowhere()


class Transaction(Protocol):
    """What can be done in one transaction. All of it happens, or none."""

    def record(self, *events: Event) -> None:
        """Record events in the audit log once the transaction is committed, and never if it is rolled back."""
        ...

    async def lock_user(self, user_id: str) -> UserStanding:
        """Keep every other transaction that locks this user waiting, and return the user's standing.

        To be called before anything that depends on which sessions the user has.
        """
        ...

    async def read_session(self, session_id: UUID, of_user: str | None = None) -> Session | None:
        """Return a session, where given only one of that user, or None."""
        ...

    async def live_sessions_beyond(self, user_id: str, now: datetime, keep: int) -> Sequence[UUID]:
        """Return the user's live sessions but for the `keep` most recently active ones."""
        ...

    async def insert_session(self, session: Session) -> Session:
        """Add a session and return it with the epochs that it was given.

        The epochs are read in the very statement that inserts, so that a sweep which commits between any
        earlier read and this one covers the session or was seen by it.
        """
        ...

    async def end_live_beyond(
        self, user_id: str, now: datetime, keep: int, ending: Ending
    ) -> Sequence[UUID]:
        """End the user's live sessions but for the `keep` most recently active ones, however many."""
        ...

    async def end_made_by(
        self, key_id: str, now: datetime, after: UUID, limit: int, ending: Ending
    ) -> KeyBatch:
        """End the live sessions that an API key made, in the order of ids, looking at `limit` sessions at most."""
        ...

    async def end_session(self, session_id: UUID, ending: Ending) -> bool:
        """Record how a session ended, unless an ending is recorded already. Return whether it was."""
        ...

    async def renew_session(self, session: Session, *, replaces: bytes) -> bool:
        """Write a re-authenticated session's new secret, methods, clocks and what they run to.

        Only where its secret hash still is `replaces` and no ending is recorded. Return whether it was.
        """
        ...

    async def sweep_user(self, user_id: str, sweep: Sweep) -> None:
        """End every session that a locked user has, however many, by moving the user's epoch on."""
        ...

    async def sweep_everybody(self, sweep: Sweep) -> None:
        """End every session that there is, by moving the common epoch on."""
        ...

    async def correct_swept_time(self, user_id: str, now: datetime) -> None:
        """Set the times of the sweeps that cover a locked user to `now`, if they lie in the future.

        Times that are later than `now` by no more than TOLERATED_SKEW stay.
        """
        ...

    async def begin_erasure(self, user_id: str, time: datetime) -> PendingErasure:
        """Note that a locked user, whose sessions were just swept, is to be erased.

        From now on, should the user's row be gone, a user of the same id begins with the epoch that this one
        has, and with `time` as the moment before which no sign-in may have begun.
        """
        ...

    async def exempt_from_sweep(self, session_id: UUID) -> None:
        """Move a session along to its user's current epoch."""
        ...

    async def read_attempt(self, retry_hash: bytes) -> AnsweredAttempt | None:
        """Return what is kept of a repeatable call, or None. It may have expired."""
        ...

    async def write_attempt(self, attempt: AnsweredAttempt) -> None:
        """Keep what is needed to repeat a call, in place of anything under the same hash."""
        ...


class SessionStore(Protocol):
    """Where sessions are kept."""

    async def erase_some(self, erasure: PendingErasure, limit: int) -> ErasureBatch:
        """Delete at most `limit` of the sessions that an erasure covers; once there are none, what else there is.

        The user's row goes last, and stays where the user has signed in anew since. Nothing is complete while
        a later erasure of the same user is under way.
        """
        ...

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        """Return those of at most BATCH_LIMIT sessions that exist, in one read outside a transaction."""
        ...

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a piece of work in one transaction, commit it, and return what it returned.

        What the work raises rolls the transaction back and is raised here. The work may be run again from
        the start where the store asks for it, so it must have no effect of its own.

        The events of the transaction are recorded as soon as it is committed, even where its caller was
        cancelled, and before those of a transaction of this store that had to wait for this one. Nothing is
        recorded where the outcome is not known.
        """
        ...

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        """Move last-active times and latest IP addresses forward, and return how many sessions moved.

        Never moves a time back, and never touches a session that is not live at `now`, which is asked when
        the write's turn has come: what was live before the wait may not be after it.

        Raises:
            LeftOut: If somebody else kept sessions locked for a third of a second. The others were touched.
        """
        ...

    async def list_live(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's live sessions, by last activity and id, the latest first, after a key."""
        ...

    async def count_live(self, user_id: str, now: datetime, limit: int) -> int:
        """Return how many live sessions a user has, counted up to `limit`."""
        ...

    async def list_used_since(
        self,
        user_id: str,
        now: datetime,
        made_until: datetime,
        used_since: datetime,
        after: PageKey | None,
        limit: int,
    ) -> Sequence[Session]:
        """Return a user's live sessions made until a moment and used after one, ordered as by list_live."""
        ...

    async def list_ended(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's sessions that are not live, by time of ending and id, the latest first.

        Sessions whose ending is implied but not recorded are among them.
        """
        ...


class UpkeepStore(Protocol):
    """What the workers ask of the store. Each method is one small step, safe to repeat and to kill."""

    async def note_clock_time(self, now: datetime, longest: timedelta) -> datetime | None:
        """Note that the clock is right, unless more than `longest` has passed since that was noted last.

        Returns:
            What was noted before, to within a minute; None where nothing was.
        """
        ...

    async def end_overdue(
        self,
        now: datetime,
        limit: int,
        *,
        named: bool = False,
        committed: Callable[[ExpiryBatch], None] | None = None,
    ) -> ExpiryBatch:
        """Go through the next overdue sessions, at most `limit`, each of them once.

        Endings that could be told otherwise later, by idleness or a sweep, are recorded. That of a lifetime is
        told by the session for ever, and is not: it is only found and counted, and named where that is asked
        for, which costs as much again. Two at once never work on the same session. A session that was found alive is not looked at again before it could
        be due. One that somebody else is changing is looked at the next time, with all that come after it.

        What appears among those that were gone through already, because it was committed that late or by a
        clock that far behind, is never looked at. Its ending stays implied, to which every reader holds, and
        purge_ended deletes it like any other. After a crash of the engine, what it did last may be done again.

        A store that erases addresses at the end records those endings too, whose rows it must write anyway.

        What was done is given to `committed` as soon as it is committed, even where the caller was cancelled.
        It must neither wait nor raise.
        """
        ...

    async def pending_sweeps(
        self, limit: int, everybodys_before: datetime | None = None
    ) -> Sequence[PendingSweep]:
        """Return sweeps that are not settled, the oldest first, of each user only the latest.

        Of everybody's only those before a moment, where one is given: nobody locks everybody, and so a session
        that began before such a sweep can appear after it, for as long as a transaction can last.
        """
        ...

    async def end_swept(
        self,
        sweep: PendingSweep,
        now: datetime,
        after: UUID | None,
        limit: int,
        *,
        committed: Callable[[SweepBatch], None] | None = None,
    ) -> SweepBatch:
        """Record the endings that a sweep implies, in the order of ids, looking at `limit` sessions at most.

        A session that expired before the sweep stays as it is. What was done is given to `committed` as by
        end_overdue.
        """
        ...

    async def settle_sweep(self, sweep: PendingSweep) -> None:
        """Note that the endings of a sweep, and of the same user's before it, have been recorded."""
        ...

    async def count_overdue(self, now: datetime, limit: int) -> int:
        """Return how many sessions end_overdue would end, counting to `limit` at most."""
        ...

    async def count_swept(self, sweep: PendingSweep, limit: int) -> int:
        """Return how many sessions end_swept would end, counting to `limit` at most."""
        ...

    async def purge_sweeps(self, swept_before: datetime, limit: int) -> int:
        """Delete at most `limit` settled sweeps that are older, and return how many."""
        ...

    async def count_attempts(self, now: datetime, limit: int) -> int:
        """Return how many repeatable calls forget_attempts would delete, counting to `limit` at most."""
        ...

    async def oldest_overdue(self, now: datetime) -> datetime | None:
        """Return since when the next session that end_overdue looks at is overdue, or None where none is."""
        ...

    async def purge_ended(
        self, ended_before: datetime, limit: int, made_before: datetime | None = None
    ) -> int:
        """Delete at most `limit` sessions whose recorded ending or lifetime's is older, and return how many.

        Where sessions are kept in partitions, those made during the span of one before `made_before` are
        left out: their partition is about to be dropped.
        """
        ...

    async def missing_partitions(self, now: datetime) -> Sequence[datetime]:
        """Return the ends of the partitions that there should be and aren't; none where sessions have none."""
        ...

    async def partitions_over(self, made_before: datetime, ended_before: datetime) -> Sequence[str]:
        """Return the names of the partitions that are over, which takes reading them.

        Over are those whose sessions were all made before `made_before`, and have all had their endings
        recorded as of before `ended_before` or had expired by then.
        """
        ...

    async def make_partition(self, end: datetime) -> bool:
        """Make a planned partition, unless it was made meanwhile. Return whether it was now."""
        ...

    async def drop_partition(self, name: str) -> bool:
        """Drop a partition that is over, unless it is being dropped or was. Return whether it was now."""
        ...

    async def count_purgeable(self, ended_before: datetime, limit: int) -> int:
        """Return how many sessions purge_ended would delete, counting to `limit` at most."""
        ...

    async def pending_erasures(self, limit: int) -> Sequence[PendingErasure]:
        """Return erasures that are not complete, the oldest first."""
        ...

    async def erase_some(self, erasure: PendingErasure, limit: int) -> ErasureBatch:
        """As SessionStore.erase_some."""
        ...

    async def purge_erasures(self, erased_before: datetime, limit: int) -> int:
        """Delete what is kept of at most `limit` users who were erased earlier, and return of how many."""
        ...

    async def forget_attempts(self, now: datetime, limit: int) -> int:
        """Delete at most `limit` repeatable calls whose window has closed, and return how many."""
        ...


class KeyStore(Protocol):
    """Where API keys are kept."""

    async def read_keys(self, ended_after: datetime | None = None) -> Sequence[ApiKey]:
        """Return the keys, the oldest first; where given, without those that were over by a moment."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Add a key."""
        ...

    async def expire_key(
        self, key_id: UUID, expire_time: datetime, now: datetime, successor: ApiKey | None = None
    ) -> bool:
        """Have a key that is good at `now` expire at a moment, or earlier where it would, and add another.

        Return whether it was: an unknown key, or one that is over, has nothing changed and no successor.
        """
        ...

    async def revoke_key(self, key_id: UUID, revoke_time: datetime) -> bool:
        """Revoke a key, be it expired or not. Return whether it was: not if unknown or revoked already."""
        ...

    async def note_key_uses(
        self, uses: Collection[tuple[UUID, Permission]], time: datetime
    ) -> None:
        """Move the times at which keys, and their permissions, were last used forward; never back.

        Args:
            uses: Which keys used which permissions. Of keys that are unknown, nothing is noted.
            time: When they did.
        """
        ...

    async def read_key_uses(self) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
        """Return which permissions each key has used since that is recorded, and when."""
        ...
