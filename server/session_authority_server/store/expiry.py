"""One step through what is overdue.

Most of it has expired, which its row says for ever: nothing is written then, and the worker remembers only how
far it has looked, in the order of (check_time, session_id). A session that appears behind that mark, because
its sign-in took that long to commit or its server's clock was behind, is not looked at. Nothing depends on it:
its ending is implied like any other, and `purge_ended` finds it.

Where addresses are erased at the end, what expired is written like everything else.
"""

import logging
from collections.abc import Sequence, Set
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Text,
    and_,
    case,
    false,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.ports import ExpiryBatch
from session_authority_server.store import rows
from session_authority_server.store.column_types import Id, Moment
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.liveness import (
    facts,
    first_check_time,
    idle_expire_time,
    implied_end_reason,
    implied_end_time,
    implied_initiating_entity,
)
from session_authority_server.store.tables import EVERYBODY, sessions, sweeps, upkeep

_log = logging.getLogger(__name__)

_IN_ORDER = (sessions.c.check_time, sessions.c.session_id)
_MARK = (upkeep.c.expired_until, upkeep.c.expired_id)
_place = tuple_(*_IN_ORDER)
_BEFORE_ALL_IDS = UUID(int=0)
# More than clocks differ by that are right. What comes due behind a mark that far ahead, nobody would record.
_TOO_FAR_AHEAD = timedelta(minutes=1)
# Far more can be looked at in the time that others may be kept waiting.
_WRITTEN_AT_ONCE = 1_000
_PLACE_TYPES = tuple(column.type for column in _IN_ORDER)


class WrittenEndings(NamedTuple):
    """What became of sessions whose rows were written: of all, and of those among them that had ended."""

    ids: Set[UUID]
    ended: Sequence[SessionEnded]


class _AsText(FunctionElement[str]):
    """An id as text that `UUID` reads, or a moment as its microseconds since 1970."""

    inherit_cache = True
    type = Text()


@compiles(_AsText)
def _as_text(element: _AsText, compiler: SQLCompiler, **rest: Any) -> str:
    (column,) = element.clauses
    written = compiler.process(column, **rest)
    return f"hex({written})" if isinstance(column.type, Id) else f"CAST({written} AS TEXT)"


@compiles(_AsText, "postgresql")
def _as_text_in_postgresql(element: _AsText, compiler: SQLCompiler, **rest: Any) -> str:
    (column,) = element.clauses
    written = compiler.process(column, **rest)
    if isinstance(column.type, Moment):
        written = f"CAST(EXTRACT(epoch FROM {written}) * 1000000 AS BIGINT)"
    return f"CAST({written} AS TEXT)"


async def end_overdue(
    connection: AsyncConnection,
    dialect: Dialect,
    now: datetime,
    limit: int,
    named: bool,
    *,
    erases_at_end: bool = False,
) -> ExpiryBatch:
    """Look at the next sessions that are overdue, record what they don't say themselves, and move the mark."""
    if erases_at_end:  # each of them is written
        limit = min(limit, _WRITTEN_AT_ONCE)
    # What is lost of this in a crash is implied all the same, and found again.
    taking = select(*_MARK, dialect.worker_settings()).with_for_update(skip_locked=True)
    found = (await connection.execute(taking)).one_or_none()
    if found is None:
        return ExpiryBatch(0, [], 0, busy=True)
    mark: tuple[datetime, UUID] = (found.expired_until, found.expired_id)
    if mark[0] > now + _TOO_FAR_AHEAD:
        _log.warning("a worker's clock was ahead by %s; going back", mark[0] - now)
        mark = (now, _BEFORE_ALL_IDS)
        await _move_mark(connection, *mark)
    seen = await _read_overdue(connection, mark, None, now, limit, named, erases_at_end)
    due = [UUID(each) for each in (seen.due or "").split()]
    written = await _write(connection, dialect, due[:_WRITTEN_AT_ONCE], now, erases_at_end)
    left = await _first_unwritten(connection, dialect, set(due) - written.ids, now)
    if left is not None:
        # Whoever has locked it is about to change it, or it was too much: it is looked at again, with all after it.
        seen = await _read_overdue(connection, mark, left, now, limit, named, erases_at_end)
    if seen.until is not None:
        await _move_mark(connection, seen.until, seen.last_id)
    lines = (seen.lines or "").split("\n")
    return ExpiryBatch(
        count=seen.expired + len(written.ended),
        ended=[*(_expired(line) for line in lines if line), *written.ended],
        examined=seen.expired + len(written.ids),
    )


def is_past_mark(now: datetime) -> ColumnElement[bool]:
    """Say whether a row of `sessions` is overdue, and was not looked at."""
    mark = (select(column).scalar_subquery() for column in _MARK)
    return and_(_is_overdue(now), _place > tuple_(*mark))


async def write_endings(
    connection: AsyncConnection,
    condition: ColumnElement[bool],
    limit: int,
    now: datetime,
    parameters: dict[str, Any] | None = None,
    *,
    erases_at_end: bool = False,
) -> WrittenEndings:
    """Record the endings of those due that are not live, and put off the next look at the others.

    In the order of ids; what others have locked is left out.
    """
    # What follows from a row is worked out on the row as locked: what others changed meanwhile counts, and
    # what others have locked is theirs.
    fact = (
        select(
            sessions.c.session_id,
            first_check_time().label("next_check_time"),
            *facts(now),
        )
        .where(condition)
        .order_by(sessions.c.session_id)
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
        .returning(
            sessions.c.session_id,
            sessions.c.user_id,
            sessions.c.end_time,
            sessions.c.end_reason,
            sessions.c.initiating_entity,
        )
    )
    if erases_at_end:
        statement = statement.values(
            {
                name: case((fact.c.live, sessions.c[name]), else_=erased)
                for name, erased in rows.ERASED.items()
            }
        )
    written = (await connection.execute(statement, parameters)).all()
    ended = [
        SessionEnded(row.session_id, row.user_id, Ending(*row[2:]))
        for row in written
        if row.end_time is not None
    ]
    return WrittenEndings({row.session_id for row in written}, ended)


async def _read_overdue(
    connection: AsyncConnection,
    mark: Sequence[Any],
    before: Sequence[Any] | None,
    now: datetime,
    limit: int,
    named: bool,
    erases_at_end: bool,
) -> Row[Any]:
    """Return how many of the next sessions expired, these if named, the ids of those to be written, and the last.

    All in one row, because what is fetched and decoded for each is most of what each costs.
    """
    following = select(
        *_IN_ORDER,
        sessions.c.user_id,
        sessions.c.user_epoch,
        sessions.c.global_epoch,
        sessions.c.expire_time,
        idle_expire_time.label("idle_expire_time"),
    ).where(_is_overdue(now), _place > _at(mark))
    if before is not None:
        following = following.where(_place < _at(before))
    seen = following.order_by(*_IN_ORDER).limit(limit).cte("seen").prefix_with("MATERIALIZED")
    own, common = sweeps.alias(), sweeps.alias()
    # As `liveness.expires`, of many at once: nearly all sessions have no sweep to be looked for.
    needs_no_write = (
        false()
        if erases_at_end
        else and_(
            seen.c.expire_time <= now,
            or_(seen.c.idle_expire_time.is_(None), seen.c.idle_expire_time > seen.c.expire_time),
            own.c.epoch.is_(None),
            common.c.epoch.is_(None),
        )
    )
    session_id = _AsText(seen.c.session_id)
    space = literal(" ", Text)
    # The user's id comes last: it may have spaces, but no end of a line.
    line = session_id + space + _AsText(seen.c.expire_time) + space + seen.c.user_id
    last_id = select(seen.c.session_id).order_by(seen.c.check_time.desc(), seen.c.session_id.desc())
    statement = select(
        func.max(seen.c.check_time).label("until"),
        last_id.limit(1).scalar_subquery().label("last_id"),
        func.coalesce(func.sum(case((needs_no_write, 1), else_=0)), 0).label("expired"),
        (_in_lines(case((needs_no_write, line))) if named else null()).label("lines"),
        _in_lines(case((~needs_no_write, session_id))).label("due"),
    ).select_from(
        seen.outerjoin(
            own, _swept_in_lifetime(own, seen, seen.c.user_id, seen.c.user_epoch)
        ).outerjoin(
            common, _swept_in_lifetime(common, seen, literal(EVERYBODY), seen.c.global_epoch)
        )
    )
    return (await connection.execute(statement)).one()


def _swept_in_lifetime(
    swept: FromClause, seen: FromClause, user_id: ColumnElement[str], epoch: ColumnElement[int]
) -> ColumnElement[bool]:
    """Say whether the first sweep after an epoch was in a session's lifetime."""
    return and_(
        swept.c.user_id == user_id,
        swept.c.epoch == epoch + 1,
        swept.c.sweep_time <= seen.c.expire_time,
    )


async def _move_mark(connection: AsyncConnection, until: datetime, last_id: UUID) -> None:
    await connection.execute(update(upkeep).values(expired_until=until, expired_id=last_id))


async def _write(
    connection: AsyncConnection,
    dialect: Dialect,
    due: Sequence[UUID],
    now: datetime,
    erases_at_end: bool,
) -> WrittenEndings:
    if not due:
        return WrittenEndings(frozenset(), ())
    condition = and_(dialect.by_ids(sessions.c.session_id), _is_overdue(now))
    return await write_endings(
        connection, condition, len(due), now, {"ids": due}, erases_at_end=erases_at_end
    )


def _in_lines(column: ColumnElement[str | None]) -> ColumnElement[str]:
    """Return a text of many rows as one, a line each, without those that are null."""
    return func.aggregate_strings(column, "\n")


def _expired(line: str) -> SessionEnded:
    session_id, microseconds, user_id = line.split(" ", 2)
    time = Moment().decode(int(microseconds))
    assert time is not None
    ending = Ending(time, EndReason.EXPIRED, InitiatingEntity.POLICY)
    return SessionEnded(UUID(session_id), user_id, ending)


async def _first_unwritten(
    connection: AsyncConnection, dialect: Dialect, some: Set[UUID], now: datetime
) -> Sequence[Any] | None:
    """Return the place of the first that was not written and not moved on or ended by others either."""
    if not some:
        return None
    left = select(*_IN_ORDER).where(dialect.by_ids(sessions.c.session_id), _is_overdue(now))
    first = left.order_by(*_IN_ORDER).limit(1)
    return (await connection.execute(first, {"ids": list(some)})).one_or_none()


def _at(place: Sequence[Any]) -> ColumnElement[Any]:
    return tuple_(*map(literal, place[:2], _PLACE_TYPES))


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(sessions.c.end_time.is_(None), sessions.c.check_time <= now)
