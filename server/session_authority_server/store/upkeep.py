from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    and_,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.token import first_id
from session_authority_server.ports.store import PendingErasure
from session_authority_server.ports.upkeep import ExpiryBatch, PendingSweep, SweepBatch
from session_authority_server.store.clock_times import note_clock_time
from session_authority_server.store.database import Database
from session_authority_server.store.expiry import end_overdue, is_past_watermark, write_endings
from session_authority_server.store.liveness import expired_before_sweep, is_live
from session_authority_server.store.partitions import Partitions
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.tables import (
    EVERYBODY,
    attempts,
    erasures,
    revoked_identities,
    sessions,
    sweeps,
)


class SqlUpkeepStore:
    """`ports.upkeep.UpkeepStore` in SQL."""

    def __init__(
        self,
        database: Database,
        *,
        erases_at_end: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        """Maintain a database.

        Args:
            database: The database.
            erases_at_end: Whether to erase addresses and the user agent when a session ends.
            reporter: Writes the events of sessions that expire or idle out for the receivers.
        """
        self._database = database
        self._reporter = reporter
        self._erases_at_end = erases_at_end
        self._partitions = Partitions(database)

    async def note_clock_time(self, now: datetime, longest: timedelta) -> datetime | None:
        return await note_clock_time(self._database, now, longest)

    async def end_overdue(
        self,
        now: datetime,
        limit: int,
        *,
        named: bool = False,
        committed: Callable[[ExpiryBatch], None] | None = None,
    ) -> ExpiryBatch:
        return await self._database.write(
            lambda connection: end_overdue(
                connection,
                self._database.dialect,
                now,
                limit,
                named,
                erases_at_end=self._erases_at_end,
                reporter=self._reporter,
            ),
            committed,
        )

    async def pending_sweeps(
        self, limit: int, global_sweeps_before: datetime | None = None
    ) -> Sequence[PendingSweep]:
        # The latest sweep of a user covers all sessions that earlier sweeps cover.
        statement = (
            select(sweeps.c.user_id, func.max(sweeps.c.epoch))
            .where(~sweeps.c.settled)
            .group_by(sweeps.c.user_id)
            .order_by(func.min(sweeps.c.sweep_time))
            .limit(limit)
        )
        if global_sweeps_before is not None:
            statement = statement.where(
                or_(sweeps.c.user_id != EVERYBODY, sweeps.c.sweep_time < global_sweeps_before)
            )

        async def work(connection: AsyncConnection) -> Sequence[PendingSweep]:
            return [PendingSweep(*row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def end_swept(
        self,
        sweep: PendingSweep,
        now: datetime,
        after: UUID | None,
        limit: int,
        *,
        committed: Callable[[SweepBatch], None] | None = None,
    ) -> SweepBatch:
        # The limit applies to the sessions read, because most sessions of everybody may have ended already.
        seen = select(sessions.c.session_id, _is_swept(sweep).label("swept"))
        if sweep.user_id != EVERYBODY:
            seen = seen.where(sessions.c.user_id == sweep.user_id, sessions.c.end_time.is_(None))
        if after is not None:
            seen = seen.where(sessions.c.session_id > after)
        seen = seen.order_by(sessions.c.session_id).limit(limit)

        async def work(connection: AsyncConnection) -> SweepBatch:
            rows = (await connection.execute(seen)).all()
            last = rows[-1].session_id if len(rows) == limit else None
            swept = [row.session_id for row in rows if row.swept]
            if not swept:
                return SweepBatch((), 0, last)
            due = and_(_is_swept(sweep), sessions.c.session_id.in_(swept))
            written = await write_endings(
                connection, due, limit, now, erases_at_end=self._erases_at_end
            )
            return SweepBatch(written.ended, max(0, len(swept) - len(written.ids)), last)

        return await self._database.write(work, committed)

    async def settle_sweep(self, sweep: PendingSweep) -> None:
        statement = (
            update(sweeps)
            .where(sweeps.c.user_id == sweep.user_id, sweeps.c.epoch <= sweep.epoch)
            .values(settled=True)
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def count_overdue(self, now: datetime, limit: int) -> int:
        ended = select(sessions.c.session_id).where(is_past_watermark(now), ~is_live(now))
        return await self._count(ended, limit)

    async def count_swept(self, sweep: PendingSweep, limit: int) -> int:
        return await self._count(select(sessions.c.session_id).where(_is_swept(sweep)), limit)

    async def purge_sweeps(self, swept_before: datetime, limit: int) -> int:
        old = (
            select(sweeps.c.user_id, sweeps.c.epoch)
            .where(sweeps.c.settled, sweeps.c.sweep_time < swept_before)
            .limit(limit)
        )
        return await self._delete(sweeps, tuple_(sweeps.c.user_id, sweeps.c.epoch).in_(old))

    async def count_attempts(self, now: datetime, limit: int) -> int:
        closed = select(attempts.c.retry_hash).where(attempts.c.expire_time <= now)
        return await self._count(closed, limit)

    async def estimate_live(self, now: datetime) -> int:
        dialect = self._database.dialect
        return await self._database.read(lambda connection: dialect.estimate_live(connection, now))

    async def oldest_overdue(self, now: datetime) -> datetime | None:
        ahead = select(sessions.c.check_time).where(is_past_watermark(now))
        statement = ahead.order_by(sessions.c.check_time, sessions.c.session_id).limit(1)

        async def work(connection: AsyncConnection) -> datetime | None:
            oldest: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
            return oldest

        return await self._database.read(work)

    async def missing_partitions(self, now: datetime) -> Sequence[datetime]:
        return await self._partitions.missing(now)

    async def old_partitions(
        self, created_before: datetime, ended_before: datetime
    ) -> Sequence[str]:
        return await self._partitions.droppable(created_before, ended_before)

    async def make_partition(self, end: datetime) -> bool:
        return await self._partitions.make(end)

    async def drop_partition(self, name: str) -> bool:
        return await self._partitions.drop(name)

    async def purge_ended(
        self, ended_before: datetime, limit: int, created_before: datetime | None = None
    ) -> int:
        span = None if created_before is None else await self._partitions.span()
        in_last_partition = None
        if created_before is not None and span is not None:
            first, last = first_id(created_before - span), first_id(created_before)
            in_last_partition = sessions.c.session_id.between(first, last)

        async def work(connection: AsyncConnection) -> int:
            deleted = 0
            for due, order in _purgeable(ended_before):
                old = (
                    select(sessions.c.session_id)
                    .where(due if in_last_partition is None else and_(due, ~in_last_partition))
                    .order_by(order)
                    .limit(limit - deleted)
                    .with_for_update(skip_locked=True)
                )
                statement = delete(sessions).where(sessions.c.session_id.in_(old))
                deleted += (await connection.execute(statement)).rowcount
                if deleted >= limit:
                    break
            return deleted

        return await self._database.write(work)

    async def count_purgeable(self, ended_before: datetime, limit: int) -> int:
        count = 0
        for due, _ in _purgeable(ended_before):
            if count < limit:
                old = select(sessions.c.session_id).where(due)
                count += await self._count(old, limit - count)
        return count

    async def pending_erasures(self, limit: int) -> Sequence[PendingErasure]:
        statement = (
            select(erasures.c.user_id, erasures.c.epoch)
            .where(erasures.c.user_id.is_not(None))
            .order_by(erasures.c.erase_time)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> Sequence[PendingErasure]:
            return [PendingErasure(*row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def purge_erasures(self, erased_before: datetime, limit: int) -> int:
        old = (
            select(erasures.c.user_hash)
            .where(erasures.c.user_id.is_(None), erasures.c.erase_time < erased_before)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self._delete(erasures, erasures.c.user_hash.in_(old))

    async def purge_revoked_identities(self, revoked_before: datetime, limit: int) -> int:
        old = (
            select(revoked_identities.c.identity_hash)
            .where(revoked_identities.c.revoke_time < revoked_before)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self._delete(revoked_identities, revoked_identities.c.identity_hash.in_(old))

    async def forget_attempts(self, now: datetime, limit: int) -> int:
        closed = (
            select(attempts.c.retry_hash)
            .where(attempts.c.expire_time <= now)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self._delete(attempts, attempts.c.retry_hash.in_(closed))

    async def _count(self, statement: Select[Any], limit: int) -> int:
        counting = select(func.count()).select_from(statement.limit(limit).subquery())

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(counting)).scalar_one()

        return await self._database.read(work)

    async def _delete(self, table: Any, condition: ColumnElement[bool]) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(table).where(condition))).rowcount

        return await self._database.write(work)


def _purgeable(ended_before: datetime) -> Sequence[tuple[ColumnElement[bool], Column[Any]]]:
    """Return the conditions for sessions that ended before a time, each with its order.

    There is one condition for recorded endings and one for expired sessions. Each follows an index.
    """
    recorded = sessions.c.end_time < ended_before
    expired = and_(
        sessions.c.end_time.is_(None),
        # Implied by the next condition, since check_time is never later than expire_time. It makes the index usable.
        sessions.c.check_time < ended_before,
        sessions.c.expire_time < ended_before,
    )
    return (recorded, sessions.c.end_time), (expired, sessions.c.check_time)


def _is_swept(sweep: PendingSweep) -> ColumnElement[bool]:
    of_everybody = sweep.user_id == EVERYBODY
    if of_everybody:
        covered: ColumnElement[bool] = sessions.c.global_epoch < sweep.epoch
    else:
        covered = and_(sessions.c.user_id == sweep.user_id, sessions.c.user_epoch < sweep.epoch)
    expired_first = expired_before_sweep(of_everybody=of_everybody)
    return and_(covered, sessions.c.end_time.is_(None), ~expired_first)
