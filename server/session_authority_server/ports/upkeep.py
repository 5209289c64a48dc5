"""The interface of the store that the workers use.

The rules at the top of `ports.store` also apply here. Every store passes the tests in `tests/contract/`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from session_authority_server.domain.event import SessionEnded
from session_authority_server.ports.store import PendingErasure


@dataclass(frozen=True, slots=True)
class ExpiryBatch:
    """The result of one call of `end_overdue`."""

    count: int  # how many sessions have ended
    ended: Sequence[
        SessionEnded
    ]  # the recorded endings; also the expired sessions if `named` or reported
    examined: int  # how many sessions were processed; 0 if none is due
    busy: bool = False  # whether another caller was running, so that this call did nothing


@dataclass(frozen=True, slots=True)
class PendingSweep:
    """A sweep whose endings are not all recorded. An empty user id means everybody."""

    user_id: str
    epoch: int  # the epoch that began with the sweep


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """The result of one call of `end_swept`."""

    ended: Sequence[SessionEnded]  # the recorded endings
    left: int  # how many sessions were skipped because they were locked
    last: UUID | None  # the id to continue after; None after the last batch


class UpkeepStore(Protocol):
    """The store as the workers use it. Each method is one small step that is safe to repeat and to interrupt.

    `committed` receives a batch right after its commit, even if the caller was cancelled. It must neither wait nor
    raise. Methods that count stop at `limit`.
    """

    async def note_clock_time(self, now: datetime, longest: timedelta) -> datetime | None:
        """Store `now` as a time of the right clock, unless the stored time is over `longest` ago. Return the latter."""

    async def end_overdue(
        self,
        now: datetime,
        limit: int,
        *,
        named: bool = False,
        committed: Callable[[ExpiryBatch], None] | None = None,
    ) -> ExpiryBatch:
        """Process the next overdue sessions, at most `limit`, each once.

        * Records endings by idle timeout or sweep, because a later read could compute a different ending.
        * Only counts sessions whose lifetime is over, because their rows always show it. `named` also returns these
          expired sessions, which doubles the cost.
        * Exception: a store that erases addresses at the end writes these rows, so it also records that they expired.
        * If a receiver wants the endings, also returns the expired sessions, and writes an event for each session that
          no sweep covers. It then locks the users, so that their events are in order.
        * Two callers never process the same session at the same time. A crash of the engine may repeat the last batch.
        * Skips a live session until it could be due. Stops at a locked session, and continues with it next time.
        * Never processes a session that appears behind the position reached. It was committed late or created by a
          slow clock. Its ending stays implied, and purge_ended deletes it later.
        """

    async def count_overdue(self, now: datetime, limit: int) -> int:
        """Return how many sessions end_overdue would end."""

    async def estimate_live(self, now: datetime) -> int:
        """Estimate how many sessions are live, at constant cost. Counts a swept session until its end is recorded."""

    async def oldest_overdue(self, now: datetime) -> datetime | None:
        """Return when the next session that `end_overdue` will process became overdue; None if no session is left."""

    async def pending_sweeps(
        self, limit: int, global_sweeps_before: datetime | None = None
    ) -> Sequence[PendingSweep]:
        """Return the latest unsettled sweep of each user, the oldest first.

        Includes a sweep of everybody only if it is earlier than `global_sweeps_before`. A sweep of everybody
        locks no user, so transactions that began before it may still commit sessions.
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
        """Record the endings of a sweep, except of sessions that expired before it. Read at most `limit` ids."""

    async def count_swept(self, sweep: PendingSweep, limit: int) -> int:
        """Return how many sessions end_swept would end."""

    async def settle_sweep(self, sweep: PendingSweep) -> None:
        """Mark a sweep, and the earlier sweeps of the same user, as settled: all their endings are recorded."""

    async def purge_sweeps(self, swept_before: datetime, limit: int) -> int:
        """Delete at most `limit` settled sweeps before `swept_before`. Return how many were deleted."""

    async def purge_ended(
        self, ended_before: datetime, limit: int, created_before: datetime | None = None
    ) -> int:
        """Delete at most `limit` sessions that ended before `ended_before`. Return how many were deleted.

        With partitions, leaves out the sessions of the last partition before `created_before`, because that partition
        is about to be dropped.
        """

    async def count_purgeable(self, ended_before: datetime, limit: int) -> int:
        """Return how many sessions purge_ended would delete."""

    async def pending_erasures(self, limit: int) -> Sequence[PendingErasure]:
        """Return incomplete erasures, the oldest first."""

    async def purge_erasures(self, erased_before: datetime, limit: int) -> int:
        """Delete the hashes of at most `limit` users erased before `erased_before`. Return how many were deleted."""

    async def purge_revoked_identities(self, revoked_before: datetime, limit: int) -> int:
        """Delete at most `limit` identities revoked before `revoked_before`. Return how many were deleted."""

    async def forget_attempts(self, now: datetime, limit: int) -> int:
        """Delete at most `limit` answers of repeatable calls that have expired. Return how many were deleted."""

    async def count_attempts(self, now: datetime, limit: int) -> int:
        """Return how many answers forget_attempts would delete."""

    async def missing_partitions(self, now: datetime) -> Sequence[datetime]:
        """Return the end times of missing partitions; none if the store has no partitions."""

    async def old_partitions(
        self, created_before: datetime, ended_before: datetime
    ) -> Sequence[str]:
        """Return partitions whose sessions were created before `created_before` and ended before `ended_before`."""

    async def make_partition(self, end: datetime) -> bool:
        """Create a missing partition. Return False if it already exists."""

    async def drop_partition(self, name: str) -> bool:
        """Drop a partition. Return False if another call is dropping or has dropped it."""
