from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, null, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.store.database import Database
from session_authority_server.store.liveness import (
    facts,
    first_check_time,
    implied_end_reason,
    implied_end_time,
    implied_initiating_entity,
    is_live,
)
from session_authority_server.store.partitions import Partitions, first_id
from session_authority_server.store.protocol import (
    EndedSession,
    ExpiryBatch,
    PartitionPlan,
    PendingSweep,
    SweepBatch,
)
from session_authority_server.store.tables import EVERYBODY, attempts, sessions, sweeps


class SqlUpkeepStore:
    """`protocol.UpkeepStore` in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions = Partitions(database)

    async def end_overdue(self, now: datetime, limit: int) -> ExpiryBatch:
        return await self._database.write(
            lambda connection: _end(connection, _is_overdue(now), sessions.c.check_time, limit, now)
        )

    async def pending_sweeps(self, limit: int) -> Sequence[PendingSweep]:
        # Whatever an earlier sweep of the same user covers, the latest does too.
        statement = (
            select(sweeps.c.user_id, func.max(sweeps.c.epoch))
            .where(~sweeps.c.settled)
            .group_by(sweeps.c.user_id)
            .order_by(func.min(sweeps.c.sweep_time))
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> Sequence[PendingSweep]:
            return [PendingSweep(*row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def end_swept(
        self, sweep: PendingSweep, now: datetime, after: UUID | None, limit: int
    ) -> SweepBatch:
        # Of everybody's sessions, most may have ended already: what bounds a step is what it looks at.
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
            batch = await _end(connection, due, sessions.c.session_id, limit, now)
            return SweepBatch(batch.ended, max(0, len(swept) - batch.examined), last)

        return await self._database.write(work)

    async def settle_sweep(self, sweep: PendingSweep) -> None:
        statement = (
            update(sweeps)
            .where(sweeps.c.user_id == sweep.user_id, sweeps.c.epoch <= sweep.epoch)
            .values(settled=True)
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def count_overdue(self, now: datetime, limit: int) -> int:
        ended = select(sessions.c.session_id).where(_is_overdue(now), ~is_live(now))
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

    async def oldest_overdue(self, now: datetime) -> datetime | None:
        statement = select(func.min(sessions.c.check_time)).where(_is_overdue(now))

        async def work(connection: AsyncConnection) -> datetime | None:
            oldest: datetime | None = (await connection.execute(statement)).scalar_one()
            return oldest

        return await self._database.read(work)

    async def plan_partitions(
        self, now: datetime, made_before: datetime, ended_before: datetime
    ) -> PartitionPlan:
        return await self._partitions.plan(now, made_before, ended_before)

    async def make_partition(self, end: datetime) -> bool:
        return await self._partitions.make(end)

    async def drop_partition(self, name: str) -> bool:
        return await self._partitions.drop(name)

    async def purge_ended(
        self, ended_before: datetime, limit: int, made_before: datetime | None = None
    ) -> int:
        due = sessions.c.end_time < ended_before
        span = None if made_before is None else await self._partitions.span()
        if made_before is not None and span is not None:
            first, last = first_id(made_before - span), first_id(made_before)
            due = and_(due, ~sessions.c.session_id.between(first, last))
        old = (
            select(sessions.c.session_id)
            .where(due)
            .order_by(sessions.c.end_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self._delete(sessions, sessions.c.session_id.in_(old))

    async def count_purgeable(self, ended_before: datetime, limit: int) -> int:
        old = select(sessions.c.session_id).where(sessions.c.end_time < ended_before)
        return await self._count(old, limit)

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


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(sessions.c.end_time.is_(None), sessions.c.check_time <= now)


def _is_swept(sweep: PendingSweep) -> ColumnElement[bool]:
    if sweep.user_id == EVERYBODY:
        covered: ColumnElement[bool] = sessions.c.global_epoch < sweep.epoch
    else:
        covered = and_(sessions.c.user_id == sweep.user_id, sessions.c.user_epoch < sweep.epoch)
    return and_(covered, sessions.c.end_time.is_(None))


async def _end(
    connection: AsyncConnection,
    condition: ColumnElement[bool],
    order: ColumnElement[Any],
    limit: int,
    now: datetime,
) -> ExpiryBatch:
    """Record the endings of those due that are not live, and put off the next look at the others."""
    # What follows from a row is worked out on the row as locked: what others changed meanwhile counts, and
    # what others have locked is theirs.
    fact = (
        select(
            sessions.c.session_id,
            first_check_time().label("next_check_time"),
            *facts(now),
        )
        .where(condition)
        .order_by(order)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True, of=sessions)
        .cte("fact")
        .prefix_with("MATERIALIZED")
    )
    statement = (
        update(sessions)
        .where(sessions.c.session_id == fact.c.session_id, sessions.c.end_time.is_(None))
        .values(
            check_time=case((fact.c.live, fact.c.next_check_time), else_=sessions.c.check_time),
            end_time=case((fact.c.live, null()), else_=implied_end_time(fact.c)),
            end_reason=case((fact.c.live, null()), else_=implied_end_reason(fact.c)),
            initiating_entity=case((fact.c.live, null()), else_=implied_initiating_entity(fact.c)),
        )
        .returning(sessions.c.session_id, sessions.c.user_id, sessions.c.end_reason)
    )
    examined = (await connection.execute(statement)).all()
    ended = [EndedSession(*row) for row in examined if row.end_reason is not None]
    return ExpiryBatch(ended, len(examined))
