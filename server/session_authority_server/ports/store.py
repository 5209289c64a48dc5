"""The interfaces that stores, the audit log and listeners implement.

Every method of every store:

* sees every commit that was acknowledged before the method began;
* has committed durably when it returns, and commits even if the task that awaits it is cancelled;
* raises StoreUnavailable instead of waiting without limit. The change may then be committed or not;
* notifies caches (through `Listener` or the engine) of every change that invalidates a token, before it returns.
  It never does so for a session that expires or idles out, or for a change that is rolled back;
* uses `domain.liveness.is_live` at the given `now` as the definition of "live".

Every store passes the tests in `tests/contract/`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission
from session_authority_server.domain.event import Event, SessionEnded
from session_authority_server.domain.identity import IdentityKey
from session_authority_server.domain.location import Location
from session_authority_server.domain.payload import Reportable
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import Changes, Ending, Session, Sweep

T = TypeVar("T")

BATCH_LIMIT = 1_000  # the most sessions that one statement reads, touches or ends
EVENTS_AT_ONCE = 2_000  # the number of events for which `Audit.wait_for_room` waits


@dataclass(frozen=True, slots=True)
class Touch:
    """A use of a session, to be recorded."""

    session_id: UUID
    time: datetime
    ip_address: str | None


class TouchesSkipped(Exception):
    """Some touches (`skipped`) were not recorded, because their sessions stayed locked. All others were."""

    def __init__(self, skipped: Sequence[Touch]) -> None:
        super().__init__(f"{len(skipped)} activities could not be recorded")
        self.skipped = skipped


@dataclass(frozen=True, slots=True)
class PageKey:
    """The sort key of the last session on a page."""

    time: datetime
    session_id: UUID


@dataclass(frozen=True, slots=True)
class LockedUser:
    """A user whose row is locked."""

    swept_time: (
        datetime | None
    )  # when all sessions of the user or of the locked identity were last ended


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """An erasure of a user that may not be complete."""

    user_id: str
    epoch: int  # began with the erasure, which deletes sessions of the user's earlier epochs


@dataclass(frozen=True, slots=True)
class ErasureBatch:
    """The result of one call of `erase_some`."""

    deleted: int  # how many rows were deleted
    complete: bool  # whether nothing is left


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """The result of one call of `end_created_by`."""

    ended: Sequence[SessionEnded]
    last: UUID | None  # the id to continue after; None after the last batch


@dataclass(frozen=True, slots=True)
class IdentityBatch:
    """The result of one call of `end_with_identity`."""

    ended: Sequence[SessionEnded]
    more: bool  # whether there may be more sessions


class Listener(Protocol):
    """Receives the changes of this process that invalidate tokens. Its methods neither wait nor raise."""

    def committing(self) -> None:
        """Record that a change is about to be committed. A call of `committed` follows."""

    def committed(self, changes: Changes, *, certain: bool) -> None:
        """Record that a change was committed. If not `certain`, its commit may have failed or may still happen."""


class Audit(Protocol):
    """Records events for auditors."""

    def record(self, *events: Event) -> None:
        """Record past events, in order. Never waits and never raises."""

    async def wait_for_room(self) -> None:
        """Wait, at most some seconds, until EVENTS_AT_ONCE events can be recorded without loss. For upkeep."""


class _NoAudit:
    def record(self, *events: Event) -> None: ...
    async def wait_for_room(self) -> None: ...


NO_AUDIT: Final[Audit] = _NoAudit()


Locate: TypeAlias = Callable[[str | None], Location | None]
"""Returns the location of a kept IP address, or None if unknown. Never waits and never raises."""


def nowhere(_address: str | None) -> Location | None:
    """Return None: without the operator's file, every location is unknown."""
    return None


class Transaction(Protocol):
    """One transaction. Its changes are committed together, or not at all."""

    def record(self, *events: Event) -> None:
        """Record events in the audit log after the commit, and report them. A rollback discards them."""

    def report(self, *events: Reportable) -> None:
        """Write events for the receivers that want them, before the commit. The audit log does not get them."""

    def confirm_end(self) -> None:
        """Protect the commit like that of a new ending. Its answer confirms an ending that was recorded earlier."""

    async def lock_user(self, user_id: str, identity: Sequence[IdentityKey] = ()) -> LockedUser:
        """Lock a user's row before any work that depends on the user's sessions. Return the user.

        Until the commit, a `revoke_identity` of one of the keys waits.
        """

    async def read_session(self, session_id: UUID, of_user: str | None = None) -> Session | None:
        """Return a session; None if it does not exist or belongs to a user other than `of_user`."""

    async def live_over_limit(self, user_id: str, now: datetime, keep: int) -> Sequence[UUID]:
        """Return the user's live sessions except the `keep` most recently active ones."""

    async def insert_session(self, session: Session) -> Session:
        """Insert a session. Return it with its epochs, which the INSERT itself reads, so that no sweep is missed."""

    async def end_live_over_limit(
        self, user_id: str, now: datetime, keep: int, ending: Ending
    ) -> Sequence[UUID]:
        """End all of the user's live sessions except the `keep` most recently active ones."""

    async def end_created_by(
        self, key_id: str, now: datetime, after: UUID, limit: int, ending: Ending
    ) -> KeyBatch:
        """End the live sessions that an API key created, in the order of ids. Reads `limit` sessions at most."""

    async def revoke_identity(self, key: IdentityKey, time: datetime) -> None:
        """Refuse sign-ins with the identity that began before `time`. Wait until those in progress are committed."""

    async def end_with_identity(
        self, key: IdentityKey, now: datetime, limit: int, ending: Ending
    ) -> IdentityBatch:
        """End at most `limit` live sessions of an identity."""

    async def end_session(self, session_id: UUID, ending: Ending) -> bool:
        """Record how a session ended, unless an ending is already recorded. Return whether this call recorded it."""

    async def name_session(self, session_id: UUID, label: str | None, now: datetime) -> bool:
        """Write the label of a session, unless the session is not live. Return whether it was written."""

    async def renew_session(self, session: Session, *, replaces: bytes) -> bool:
        """Write a session if its stored hash is `replaces` and no ending is recorded. Return whether it was written."""

    async def sweep_user(self, user_id: str, sweep: Sweep) -> None:
        """End every session of a user by increasing the user's epoch. The caller has locked the user's row."""

    async def sweep_everybody(self, sweep: Sweep) -> None:
        """End every session of every user by increasing the global epoch."""

    async def read_swept_time(self) -> datetime | None:
        """Return when a sweep last ended the sessions of everybody; None if none did."""

    async def correct_swept_time(
        self, user_id: str, now: datetime, identity: Sequence[IdentityKey] = ()
    ) -> None:
        """Set the sweep times of user, identity and everybody to `now` if they are over TOLERATED_SKEW later."""

    async def begin_erasure(self, user_id: str, time: datetime) -> PendingErasure:
        """Mark a user for erasure. The caller has locked the user's row and just swept the user's sessions.

        Deletes the user's events that wait for receivers or were delivered, and reports the erasure. The user's row
        is deleted later. If the user signs in again after that, the new row starts at the epoch
        that the user has at this call, and rejects sign-ins that began before `time`.
        """

    async def exempt_from_sweep(self, session_id: UUID) -> None:
        """Set a session's epoch to its user's current epoch."""

    async def read_attempt(self, retry_hash: bytes) -> AnsweredAttempt | None:
        """Return the stored answer of a repeatable call, or None. The answer may have expired."""

    async def write_attempt(self, attempt: AnsweredAttempt) -> None:
        """Store the answer of a repeatable call. Replace any answer with the same hash."""


class SessionStore(Protocol):
    """Keeps sessions."""

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        """Return the sessions that exist, of at most BATCH_LIMIT ids, in one read outside a transaction."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in one transaction, commit it, and return the result of `work`.

        An exception from `work` rolls the transaction back and is raised here. The store may run `work` again from
        the start, so `work` must have no other effect.

        The transaction's events are recorded right after the commit, even if the caller was cancelled. The events of
        a transaction that waited for this one come later. Nothing is recorded if the outcome is unknown.
        """

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        """Move last-active times and latest IP addresses forward. Return how many sessions changed.

        Never moves a time back, and never touches a session that is not live at `now()`. The store calls `now` right
        before it writes, because a session may end while the write waits.

        Raises:
            TouchesSkipped: If some sessions stayed locked for a third of a second. All others were touched.
        """

    async def list_live(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's live sessions after a page key, the most recently active first, then by id."""

    async def count_live(self, user_id: str, now: datetime, limit: int) -> int:
        """Return how many live sessions a user has, or `limit` if there are more."""

    async def list_used_since(
        self,
        user_id: str,
        now: datetime,
        created_until: datetime,
        used_since: datetime,
        after: PageKey | None,
        limit: int,
    ) -> Sequence[Session]:
        """Return live sessions created by `created_until` and used after `used_since`, in the order of list_live."""

    async def list_ended(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """Return a user's ended sessions after a page key, the latest ending first, then by id.

        The ending may be recorded or implied.
        """

    async def erase_some(self, erasure: PendingErasure, limit: int) -> ErasureBatch:
        """Delete at most `limit` sessions of an erasure. Once none is left, delete the user's other rows.

        The user's own row is deleted last. It stays if the user has signed in again. No erasure is complete while a
        later erasure of the same user is pending.
        """


class KeyStore(Protocol):
    """Keeps API keys."""

    async def read_keys(self, ended_after: datetime | None = None) -> Sequence[ApiKey]:
        """Return the keys, the oldest first. Leave out keys that ended at or before `ended_after`."""

    async def add_key(self, key: ApiKey) -> None:
        """Add a key."""

    async def expire_key(
        self, key_id: UUID, expire_time: datetime, now: datetime, successor: ApiKey | None = None
    ) -> bool:
        """Expire a key at `expire_time` at the latest. Add the successor. Return False for an unknown or ended key."""

    async def revoke_key(self, key_id: UUID, revoke_time: datetime) -> bool:
        """Revoke a key, even an expired one. Return False if it is unknown or already revoked."""

    async def note_key_uses(
        self, uses: Collection[tuple[UUID, Permission]], time: datetime
    ) -> None:
        """Move the last-used times of keys and permissions forward, never back. Ignore unknown keys."""

    async def read_key_uses(self) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
        """Return when each key used each of its permissions."""
