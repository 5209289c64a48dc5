"""`domain.liveness` in SQL. A property test proves that both forms are equal.

`is_live` needs only the columns of `sessions`, and reads the epochs by subqueries. So it works in a SELECT, an UPDATE
and a subquery alike.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Label,
    and_,
    case,
    func,
    literal,
    null,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from session_authority_server.domain.session import EndReason, InitiatingEntity
from session_authority_server.store.column_types import Moment
from session_authority_server.store.tables import EVERYBODY, authority, sessions, sweeps, users

current_user_epoch = (
    select(users.c.epoch).where(users.c.user_id == sessions.c.user_id).scalar_subquery()
)
current_global_epoch = select(authority.c.epoch).scalar_subquery()


class TimePlus(FunctionElement[datetime]):
    """A moment plus a duration: `TimePlus(moment, span)`."""

    inherit_cache = True
    type = Moment()


@compiles(TimePlus)
def _add(element: TimePlus, compiler: SQLCompiler, **rest: Any) -> str:
    moment, span = (compiler.process(each, **rest) for each in element.clauses)
    return f"({moment} + {span})"


@compiles(TimePlus, "postgresql")
def _add_in_utc(element: TimePlus, compiler: SQLCompiler, **rest: Any) -> str:
    # A day added to a timestamptz is a day in PostgreSQL's TimeZone setting, and can have 23 or 25 hours.
    moment, span = (compiler.process(each, **rest) for each in element.clauses)
    return f"(({moment} AT TIME ZONE 'UTC' + {span}) AT TIME ZONE 'UTC')"


idle_expire_time = TimePlus(sessions.c.last_active_time, sessions.c.idle_timeout)

# Replaces null in comparisons of times, because engines compare nulls differently.
_NEVER = literal(datetime(9999, 1, 1, tzinfo=UTC), Moment)


def is_live(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that a row of `sessions` is live."""
    return and_(
        sessions.c.end_time.is_(None),
        sessions.c.expire_time > now,
        or_(sessions.c.idle_timeout.is_(None), idle_expire_time > now),
        # The row's epoch exceeds the current one only if PostgreSQL locked a row that is newer than the statement's
        # snapshot of `users`. A sweep has then just exempted this session, so the session stays live.
        sessions.c.user_epoch >= current_user_epoch,
        sessions.c.global_epoch >= current_global_epoch,
    )


def is_swept() -> ColumnElement[bool]:
    """Return the condition that a sweep covers a row of `sessions`."""
    return or_(
        sessions.c.user_epoch < current_user_epoch, sessions.c.global_epoch < current_global_epoch
    )


def first_check_time() -> ColumnElement[datetime]:
    """Return the earliest moment at which a live session could be overdue, as an SQL expression."""
    return case(
        (
            and_(idle_expire_time.is_not(None), idle_expire_time < sessions.c.expire_time),
            idle_expire_time,
        ),
        else_=sessions.c.expire_time,
    )


def expires() -> ColumnElement[bool]:
    """Return the condition that the end of the lifetime is the first of the endings that a row implies.

    Once the lifetime is over, no later activity or sweep changes this. The condition looks up the first later sweep in
    `sweeps` instead of the current epochs. For most rows, there is no later sweep to find.
    """
    return and_(
        or_(sessions.c.idle_timeout.is_(None), idle_expire_time > sessions.c.expire_time),
        ~_first_sweep_is(
            sessions.c.user_id, sessions.c.user_epoch, sweeps.c.sweep_time <= sessions.c.expire_time
        ),
        ~_first_sweep_is(
            literal(EVERYBODY),
            sessions.c.global_epoch,
            sweeps.c.sweep_time <= sessions.c.expire_time,
        ),
    )


def expired_before_sweep(*, of_everybody: bool) -> ColumnElement[bool]:
    """Return the condition that a row of `sessions` had expired before the sweeps that cover it."""
    user_id = literal(EVERYBODY) if of_everybody else sessions.c.user_id
    epoch = sessions.c.global_epoch if of_everybody else sessions.c.user_epoch
    return and_(
        _first_sweep_is(user_id, epoch, sweeps.c.sweep_time > sessions.c.expire_time), expires()
    )


def facts(now: datetime) -> list[Label[Any]]:
    """Return the columns from which `implied_end_time` and the functions after it derive the ending of a row.

    They belong in a subquery or CTE, so that each is computed once.
    """
    by_user = sessions.c.user_epoch < current_user_epoch
    by_everybody = sessions.c.global_epoch < current_global_epoch
    return [
        is_live(now).label("live"),
        _first_sweep_value(
            by_user, sweeps.c.sweep_time, sessions.c.user_id, sessions.c.user_epoch, now
        ).label("user_sweep_time"),
        _first_sweep_value(
            by_user,
            sweeps.c.initiating_entity,
            sessions.c.user_id,
            sessions.c.user_epoch,
            InitiatingEntity.SYSTEM,
        ).label("user_sweep_by"),
        _first_sweep_value(
            by_everybody, sweeps.c.sweep_time, literal(EVERYBODY), sessions.c.global_epoch, now
        ).label("global_sweep_time"),
        _first_sweep_value(
            by_everybody,
            sweeps.c.initiating_entity,
            literal(EVERYBODY),
            sessions.c.global_epoch,
            InitiatingEntity.SYSTEM,
        ).label("global_sweep_by"),
        # These times may lie in the future. If the row is not live, the earliest of all times has passed.
        func.coalesce(idle_expire_time, _NEVER, type_=Moment).label("idle_end_time"),
        sessions.c.expire_time.label("lifetime_end_time"),
    ]


Columns = ReadOnlyColumnCollection[str, Any]


def implied_end_time(fact: Columns) -> ColumnElement[datetime]:
    """Return the time of the earliest ending that the facts imply."""
    return case(
        (_user_sweep_first(fact), fact.user_sweep_time),
        (_global_sweep_first(fact), fact.global_sweep_time),
        (fact.idle_end_time <= fact.lifetime_end_time, fact.idle_end_time),
        else_=fact.lifetime_end_time,
    )


def implied_end_reason(fact: Columns) -> ColumnElement[EndReason]:
    """Return the reason of the earliest ending that the facts imply."""
    code = sessions.c.end_reason.type
    return case(
        (or_(_user_sweep_first(fact), _global_sweep_first(fact)), literal(EndReason.REVOKED, code)),
        (fact.idle_end_time <= fact.lifetime_end_time, literal(EndReason.IDLE_TIMEOUT, code)),
        else_=literal(EndReason.EXPIRED, code),
    )


def implied_initiating_entity(fact: Columns) -> ColumnElement[InitiatingEntity]:
    """Return the initiator of the earliest ending that the facts imply."""
    return case(
        (_user_sweep_first(fact), fact.user_sweep_by),
        (_global_sweep_first(fact), fact.global_sweep_by),
        else_=literal(InitiatingEntity.POLICY, sessions.c.initiating_entity.type),
    )


def _first_sweep_value(
    is_covered: ColumnElement[bool],
    column: ColumnElement[Any],
    user_id: ColumnElement[str],
    epoch: ColumnElement[int],
    default: object,
) -> ColumnElement[Any]:
    """Return the value of a column of `sweeps` for the first sweep after an epoch.

    Args:
        is_covered: Whether there was such a sweep. If not, the result is _NEVER for the column `sweep_time`, and null
            for any other column.
        column: The column.
        user_id: The user of the sweep.
        epoch: The epoch.
        default: The result if the sweep was purged.
    """
    found = (
        select(column)
        .where(sweeps.c.user_id == user_id, sweeps.c.epoch == epoch + 1)
        .scalar_subquery()
    )
    none = _NEVER if column.type is sweeps.c.sweep_time.type else null()
    return case(
        (is_covered, func.coalesce(found, literal(default, column.type), type_=column.type)),
        else_=none,
    )


def _first_sweep_is(
    user_id: ColumnElement[str], epoch: ColumnElement[int], condition: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Return the condition that the first sweep after an epoch exists and meets a condition."""
    return (
        select(sweeps.c.epoch)
        .where(sweeps.c.user_id == user_id, sweeps.c.epoch == epoch + 1, condition)
        .correlate_except(sweeps)
        .exists()
    )


def _user_sweep_first(fact: Columns) -> ColumnElement[bool]:
    return and_(
        fact.user_sweep_time < _NEVER,
        fact.user_sweep_time <= fact.global_sweep_time,
        fact.user_sweep_time <= fact.idle_end_time,
        fact.user_sweep_time <= fact.lifetime_end_time,
    )


def _global_sweep_first(fact: Columns) -> ColumnElement[bool]:
    return and_(
        fact.global_sweep_time < _NEVER,
        fact.global_sweep_time <= fact.idle_end_time,
        fact.global_sweep_time <= fact.lifetime_end_time,
    )
