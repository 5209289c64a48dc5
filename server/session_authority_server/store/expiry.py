"""One step through the overdue sessions, those whose `check_time` has passed.

Most overdue sessions have expired. Their rows already imply that, so the worker writes nothing into them. It only
advances a watermark: the (check_time, session_id) of the last session that it examined.

A session may appear behind the watermark, because its sign-in committed late or its server's clock was behind. The
worker never examines such a session. Its ending stays implied, and `purge_ended` finds it.

If addresses are erased when a session ends, the worker also writes expired sessions.
(docs/decisions/0009-expired-sessions-are-not-written.md)
"""

import logging
from collections.abc import Sequence, Set
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    CTE,
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
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.ports.upkeep import ExpiryBatch
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
from session_authority_server.store.reporting import Reporter, lock_users
from session_authority_server.store.tables import EVERYBODY, sessions, sweeps, upkeep

_log = logging.getLogger(__name__)

_ORDER = (sessions.c.check_time, sessions.c.session_id)
_WATERMARK = (upkeep.c.expired_until, upkeep.c.expired_id)
_position = tuple_(*_ORDER)
_BEFORE_ALL_IDS = UUID(int=0)
# A watermark further ahead comes from a wrong clock. Sessions that come due behind it would never be examined.
_TOO_FAR_AHEAD = timedelta(minutes=1)
# The most rows that one step writes. A step may read far more rows in the same time.
_WRITES_LIMIT = 1_000
_POSITION_TYPES = tuple(column.type for column in _ORDER)


class WrittenRows(NamedTuple):
    """The outcome of `write_endings`.

    Attributes:
        ids: The sessions whose rows were written: ended ones, and live ones with a later `check_time`.
        ended: The endings that were recorded.
    """

    ids: Set[UUID]
    ended: Sequence[SessionEnded]


class _AsText(FunctionElement[str]):
    """Converts an id to text that `UUID` can parse, or a moment to its microseconds since 1970."""

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
    reporter: Reporter | None = None,
) -> ExpiryBatch:
    """Examine the next overdue sessions, record endings by idleness or a sweep, and advance the watermark.

    If a receiver wants the endings, write their events too.
    """
    wanted = reporter.wanted() if reporter is not None else frozenset()
    reports = EventType.SESSION_ENDED in wanted
    if erases_at_end or reports:
        # Then even an expired session needs a write, so examine no more sessions than one step may write.
        limit = min(limit, _WRITES_LIMIT)
    # Without receivers, a crash of the engine may undo this commit. The endings stay implied, and the next run examines
    # the sessions again.
    settings = dialect.worker_settings(durable=reports)
    locking = select(*_WATERMARK, settings).with_for_update(skip_locked=True)
    found = (await connection.execute(locking)).one_or_none()
    if found is None:
        return ExpiryBatch(0, [], 0, busy=True)
    watermark: tuple[datetime, UUID] = (found.expired_until, found.expired_id)
    if watermark[0] > now + _TOO_FAR_AHEAD:
        _log.warning(
            "a worker's clock was ahead by %s; checking sessions again from the present time on",
            watermark[0] - now,
        )
        watermark = (now, _BEFORE_ALL_IDS)
        await _move_watermark(connection, *watermark)
    if reports:
        owners = select(_next_overdue(watermark, None, now, limit).c.user_id)
        await lock_users(connection, dialect, owners)
        named = True
    seen = await _read_overdue(connection, watermark, None, now, limit, named, erases_at_end)
    due = [UUID(each) for each in (seen.due or "").split()]
    written = await _write(connection, dialect, due[:_WRITES_LIMIT], now, erases_at_end)
    left = await _first_unwritten(connection, dialect, set(due) - written.ids, now)
    if left is not None:
        # At least one due session was not written. Another transaction had locked it, or this step had already written
        # `_WRITES_LIMIT` sessions. Move the watermark only to the session before it. The next step examines this
        # session and all later sessions again.
        seen = await _read_overdue(connection, watermark, left, now, limit, named, erases_at_end)
    if seen.until is not None:
        await _move_watermark(connection, seen.until, seen.last_id)
    lines = (seen.lines or "").split("\n")
    ended = [*(_parse_expired(line) for line in lines if line), *written.ended]
    if reporter is not None:
        await reporter.write_unswept(connection, dialect, ended, wanted)
    return ExpiryBatch(
        count=seen.expired + len(written.ended),
        ended=ended,
        examined=seen.expired + len(written.ids),
    )


def is_past_watermark(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a row of `sessions` is overdue and was not examined yet."""
    watermark = (select(column).scalar_subquery() for column in _WATERMARK)
    return and_(_is_overdue(now), _position > tuple_(*watermark))


async def write_endings(
    connection: AsyncConnection,
    condition: ColumnElement[bool],
    limit: int,
    now: datetime,
    parameters: dict[str, Any] | None = None,
    *,
    erases_at_end: bool = False,
) -> WrittenRows:
    """Record the endings of sessions that are not live, and move the `check_time` of the live ones forward.

    Takes the rows that match the condition in the order of ids, and skips rows that other transactions have locked.
    """
    # The lock comes first, so the endings follow from the newest version of each row.
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
    return WrittenRows({row.session_id for row in written}, ended)


async def _read_overdue(
    connection: AsyncConnection,
    watermark: Sequence[Any],
    before: Sequence[Any] | None,
    now: datetime,
    limit: int,
    named: bool,
    erases_at_end: bool,
) -> Row[Any]:
    """Read the next overdue sessions between the watermark and `before`, summarized in one row.

    Fetching and decoding a row for each session would be most of the cost.

    Returns:
        A row with these columns:

        * `until` and `last_id`: the position of the last session
        * `expired`: how many sessions have expired and need no write
        * `lines`: these sessions, one per line, if `named`
        * `due`: the ids of the sessions to write, one per line
    """
    seen = _next_overdue(watermark, before, now, limit)
    own, common = sweeps.alias(), sweeps.alias()
    # The same condition as `liveness.expires`, with joins. For many sessions they are faster than subqueries.
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
    # The user id comes last, because it may contain spaces. It contains no line break.
    line = session_id + space + _AsText(seen.c.expire_time) + space + seen.c.user_id
    last_id = select(seen.c.session_id).order_by(seen.c.check_time.desc(), seen.c.session_id.desc())
    statement = select(
        func.max(seen.c.check_time).label("until"),
        last_id.limit(1).scalar_subquery().label("last_id"),
        func.coalesce(func.sum(case((needs_no_write, 1), else_=0)), 0).label("expired"),
        (_joined_lines(case((needs_no_write, line))) if named else null()).label("lines"),
        _joined_lines(case((~needs_no_write, session_id))).label("due"),
    ).select_from(
        seen.outerjoin(
            own, _swept_in_lifetime(own, seen, seen.c.user_id, seen.c.user_epoch)
        ).outerjoin(
            common, _swept_in_lifetime(common, seen, literal(EVERYBODY), seen.c.global_epoch)
        )
    )
    return (await connection.execute(statement)).one()


def _next_overdue(
    watermark: Sequence[Any], before: Sequence[Any] | None, now: datetime, limit: int
) -> CTE:
    """Return the next overdue sessions between the watermark and `before`."""
    following = select(
        *_ORDER,
        sessions.c.user_id,
        sessions.c.user_epoch,
        sessions.c.global_epoch,
        sessions.c.expire_time,
        idle_expire_time.label("idle_expire_time"),
    ).where(_is_overdue(now), _position > _bound_position(watermark))
    if before is not None:
        following = following.where(_position < _bound_position(before))
    return following.order_by(*_ORDER).limit(limit).cte("seen").prefix_with("MATERIALIZED")


def _swept_in_lifetime(
    swept: FromClause, seen: FromClause, user_id: ColumnElement[str], epoch: ColumnElement[int]
) -> ColumnElement[bool]:
    """Return the condition that a sweep ended a session by the end of its lifetime. `epoch` is the session's."""
    return and_(
        swept.c.user_id == user_id,
        swept.c.epoch == epoch + 1,
        swept.c.sweep_time <= seen.c.expire_time,
    )


async def _move_watermark(connection: AsyncConnection, until: datetime, last_id: UUID) -> None:
    await connection.execute(update(upkeep).values(expired_until=until, expired_id=last_id))


async def _write(
    connection: AsyncConnection,
    dialect: Dialect,
    due: Sequence[UUID],
    now: datetime,
    erases_at_end: bool,
) -> WrittenRows:
    if not due:
        return WrittenRows(frozenset(), ())
    condition = and_(dialect.by_ids(sessions.c.session_id), _is_overdue(now))
    return await write_endings(
        connection, condition, len(due), now, {"ids": due}, erases_at_end=erases_at_end
    )


def _joined_lines(column: ColumnElement[str | None]) -> ColumnElement[str]:
    """Return an aggregate that joins the values of a column, one per line, without nulls."""
    return func.aggregate_strings(column, "\n")


def _parse_expired(line: str) -> SessionEnded:
    session_id, microseconds, user_id = line.split(" ", 2)
    time = Moment().decode(int(microseconds))
    assert time is not None
    ending = Ending(time, EndReason.EXPIRED, InitiatingEntity.POLICY)
    return SessionEnded(UUID(session_id), user_id, ending)


async def _first_unwritten(
    connection: AsyncConnection, dialect: Dialect, some: Set[UUID], now: datetime
) -> Sequence[Any] | None:
    """Return the position of the first given session that is still overdue; None if none is."""
    if not some:
        return None
    left = select(*_ORDER).where(dialect.by_ids(sessions.c.session_id), _is_overdue(now))
    first = left.order_by(*_ORDER).limit(1)
    return (await connection.execute(first, {"ids": list(some)})).one_or_none()


def _bound_position(position: Sequence[Any]) -> ColumnElement[Any]:
    return tuple_(*map(literal, position[:2], _POSITION_TYPES))


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(sessions.c.end_time.is_(None), sessions.c.check_time <= now)
