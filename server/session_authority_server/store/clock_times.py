"""Stored times that reveal a wrong clock, and their repair."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Table, and_, case, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.session import EndReason
from session_authority_server.domain.token import first_id
from session_authority_server.store.column_types import Moment
from session_authority_server.store.database import Database
from session_authority_server.store.liveness import TimePlus
from session_authority_server.store.tables import (
    authority,
    erasures,
    revoked_identities,
    sessions,
    sweeps,
    upkeep,
    users,
)

# The shortest time between two times that `note_clock_time` stores.
_NOTED_EVERY = timedelta(minutes=1)
# The most sessions that one transaction of a repair reads.
_BATCH_SESSIONS = 2_000
_BY_THE_CLOCK = (EndReason.EXPIRED, EndReason.IDLE_TIMEOUT)


@dataclass(frozen=True, slots=True)
class RepairCounts:
    """The number of changes that a repair made.

    Attributes:
        sessions: The number of sessions that had a time in the future.
        reopened: The number of those that were reopened, because they had expired or idled out in the future.
        sweeps: The number of future times of sweeps, erasures and revoked identities.
    """

    sessions: int = 0
    reopened: int = 0
    sweeps: int = 0


async def note_clock_time(database: Database, now: datetime, longest: timedelta) -> datetime | None:
    """Store `now` as a time at which the clock was right.

    Store it only if no time is stored yet, or if the stored time is at least one minute and at most `longest` before
    `now`.

    Returns:
        The time that was stored before this call; None if there was none.

    Raises:
        StoreUnavailable: If the store failed.
    """
    noted: datetime | None = await database.read(_read_clock_time)
    if noted is None or noted + _NOTED_EVERY <= now <= noted + longest:
        statement = (
            update(upkeep)
            .where(or_(upkeep.c.clock_time.is_(None), upkeep.c.clock_time < now))
            .values(clock_time=now)
        )
        await database.write(lambda connection: connection.execute(statement))
    return noted


async def _read_clock_time(connection: AsyncConnection) -> datetime | None:
    noted: datetime | None = (await connection.execute(select(upkeep.c.clock_time))).scalar_one()
    return noted


async def read_latest_time(database: Database) -> datetime | None:
    """Return the latest stored time of an event, which lies in the future only if a clock was wrong.

    Read only times that an index finds and tables with few rows.

    Raises:
        StoreUnavailable: If the store failed.
    """
    ended = select(func.max(sessions.c.end_time)).where(sessions.c.end_time.is_not(None))
    newest = select(sessions.c.create_time).order_by(sessions.c.session_id.desc()).limit(1)
    statement = select(
        select(authority.c.swept_time).scalar_subquery(),
        select(func.max(sweeps.c.sweep_time)).scalar_subquery(),
        select(func.max(erasures.c.erase_time)).scalar_subquery(),
        select(func.max(revoked_identities.c.revoke_time)).scalar_subquery(),
        select(upkeep.c.clock_time).scalar_subquery(),
        ended.scalar_subquery(),
        newest.scalar_subquery(),
    )

    async def work(connection: AsyncConnection) -> datetime | None:
        times = (await connection.execute(statement)).one()
        return max((time for time in times if time is not None), default=None)

    return await database.read(work)


async def repair(database: Database, now: datetime) -> RepairCounts:
    """Correct every stored time that wrongly lies in the future, and reopen sessions that such a time ended.

    Sessions that users or operators ended stay ended.

    Args:
        database: The database.
        now: The current time of a clock that is right.

    Raises:
        StoreUnavailable: If the store failed.
    """
    swept = await database.write(lambda connection: _repair_sweeps(connection, now))
    changed = reopened = 0
    after: UUID | None = first_id(datetime.fromtimestamp(0, now.tzinfo))
    while after is not None:
        batch = partial(_repair_sessions, now=now, after=after)
        some, some_reopened, after = await database.write(batch)
        changed += some
        reopened += some_reopened
    return RepairCounts(changed, reopened, swept)


async def _repair_sweeps(connection: AsyncConnection, now: datetime) -> int:
    future = now + TOLERATED_SKEW
    count = 0
    for table, column in (
        (authority, authority.c.swept_time),
        (users, users.c.swept_time),
        (sweeps, sweeps.c.sweep_time),
        (erasures, erasures.c.erase_time),
        (revoked_identities, revoked_identities.c.revoke_time),
    ):
        count += await _set(connection, table, column > future, {column.name: now})
    # The worker must examine the sessions whose check_time becomes `now`.
    watermark = {"expired_until": now, "expired_id": UUID(int=0)}
    await _set(connection, upkeep, upkeep.c.expired_until >= now, watermark)
    await connection.execute(update(upkeep).values(clock_time=now))
    return count


async def _set(
    connection: AsyncConnection,
    table: Table,
    condition: ColumnElement[bool],
    values: dict[str, Any],
) -> int:
    return (await connection.execute(update(table).where(condition).values(values))).rowcount


async def _repair_sessions(
    connection: AsyncConnection, now: datetime, after: UUID
) -> tuple[int, int, UUID | None]:
    future = now + TOLERATED_SKEW
    columns = sessions.c
    ended_too_early = and_(columns.end_time > future, columns.end_reason.in_(_BY_THE_CLOCK))
    moved = (columns.create_time, columns.authenticate_time, columns.last_active_time)
    is_future = or_(*(column > future for column in moved), columns.end_time > future)
    seen = (
        select(columns.session_id, is_future.label("is_future"), ended_too_early.label("early"))
        .where(columns.session_id > after)
        .order_by(columns.session_id)
        .limit(_BATCH_SESSIONS)
    )
    rows = (await connection.execute(seen)).all()
    reopened = [row.session_id for row in rows if row.early]
    changed = [row.session_id for row in rows if row.is_future]
    if changed:
        moves: dict[str, Any] = {
            column.name: case((column > future, literal(now, column.type)), else_=column)
            for column in moved
        }
        longest = TimePlus(literal(now, Moment), columns.lifetime)
        moves["expire_time"] = case(
            (columns.expire_time > longest, longest), else_=columns.expire_time
        )
        moves["check_time"] = case(
            (columns.check_time > now, literal(now, Moment)), else_=columns.check_time
        )
        await _set(connection, sessions, columns.session_id.in_(changed), moves)
        still = and_(columns.session_id.in_(changed), columns.end_time > future)
        reopening = {
            "end_time": None,
            "end_reason": None,
            "initiating_entity": None,
            "check_time": now,
        }
        await _set(connection, sessions, and_(still, ended_too_early), reopening)
        await _set(connection, sessions, still, {"end_time": now})
    last = rows[-1].session_id if len(rows) == _BATCH_SESSIONS else None
    return len(changed), len(reopened), last
