"""The database's form of `domain.liveness`, proven equal to it by a property test.

`is_live` reads over the columns of `sessions` alone and fetches the epochs by itself, so that it means the
same in a SELECT, an UPDATE and a subquery.
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
    """The moment a duration after another: `TimePlus(moment, span)`."""

    inherit_cache = True
    type = Moment()


@compiles(TimePlus)
def _add(element: TimePlus, compiler: SQLCompiler, **rest: Any) -> str:
    moment, span = (compiler.process(each, **rest) for each in element.clauses)
    return f"({moment} + {span})"


@compiles(TimePlus, "postgresql")
def _add_in_utc(element: TimePlus, compiler: SQLCompiler, **rest: Any) -> str:
    # A day added to a timestamptz is one of the server's time zone, and can have 23 or 25 hours.
    moment, span = (compiler.process(each, **rest) for each in element.clauses)
    return f"(({moment} AT TIME ZONE 'UTC' + {span}) AT TIME ZONE 'UTC')"


idle_expire_time = TimePlus(sessions.c.last_active_time, sessions.c.idle_timeout)

# Stands for "not yet" where times are compared, because engines differ on the least of a null.
_NEVER = literal(datetime(9999, 1, 1, tzinfo=UTC), Moment)


def is_live(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Say whether a row of `sessions` is live."""
    return and_(
        sessions.c.end_time.is_(None),
        sessions.c.expire_time > now,
        or_(sessions.c.idle_timeout.is_(None), idle_expire_time > now),
        # Never more, but for a row that PostgreSQL locked in a version newer than the statement's view of
        # its user: one that a sweep has just moved along, and which is as live as it was.
        sessions.c.user_epoch >= current_user_epoch,
        sessions.c.global_epoch >= current_global_epoch,
    )


def is_swept() -> ColumnElement[bool]:
    """Say whether a sweep covers a row of `sessions`."""
    return or_(
        sessions.c.user_epoch < current_user_epoch, sessions.c.global_epoch < current_global_epoch
    )


def first_check_time() -> ColumnElement[datetime]:
    """Return the first moment at which a live row of `sessions` could be overdue."""
    return case(
        (
            and_(idle_expire_time.is_not(None), idle_expire_time < sessions.c.expire_time),
            idle_expire_time,
        ),
        else_=sessions.c.expire_time,
    )


def expires() -> ColumnElement[bool]:
    """Say whether, of the endings that a row of `sessions` implies, that of its lifetime comes first.

    Where the lifetime is over, nothing changes this any more: neither an activity nor a sweep that comes later.
    It asks the sweeps, and not the epochs, because of most rows there is none to be found.
    """
    return and_(
        or_(sessions.c.idle_timeout.is_(None), idle_expire_time > sessions.c.expire_time),
        ~_covering(
            sessions.c.user_id, sessions.c.user_epoch, sweeps.c.sweep_time <= sessions.c.expire_time
        ),
        ~_covering(
            literal(EVERYBODY),
            sessions.c.global_epoch,
            sweeps.c.sweep_time <= sessions.c.expire_time,
        ),
    )


def expired_before_sweep(*, of_everybody: bool) -> ColumnElement[bool]:
    """Say whether a row of `sessions` that a sweep covers had expired before any such sweep."""
    user_id = literal(EVERYBODY) if of_everybody else sessions.c.user_id
    epoch = sessions.c.global_epoch if of_everybody else sessions.c.user_epoch
    return and_(_covering(user_id, epoch, sweeps.c.sweep_time > sessions.c.expire_time), expires())


def facts(now: datetime) -> list[Label[Any]]:
    """Return what the ending of a row of `sessions` follows from, each worked out once.

    For a subquery or CTE, over whose columns the functions below then reason.
    """
    by_user = sessions.c.user_epoch < current_user_epoch
    by_everybody = sessions.c.global_epoch < current_global_epoch
    return [
        is_live(now).label("live"),
        _swept(by_user, sweeps.c.sweep_time, sessions.c.user_id, sessions.c.user_epoch, now).label(
            "user_sweep_time"
        ),
        _swept(
            by_user,
            sweeps.c.initiating_entity,
            sessions.c.user_id,
            sessions.c.user_epoch,
            InitiatingEntity.SYSTEM,
        ).label("user_sweep_by"),
        _swept(
            by_everybody, sweeps.c.sweep_time, literal(EVERYBODY), sessions.c.global_epoch, now
        ).label("global_sweep_time"),
        _swept(
            by_everybody,
            sweeps.c.initiating_entity,
            literal(EVERYBODY),
            sessions.c.global_epoch,
            InitiatingEntity.SYSTEM,
        ).label("global_sweep_by"),
        # Whether they have come yet need not be asked: of a row that is not live, the earliest has.
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
    """Return who brought about the earliest ending that the facts imply."""
    return case(
        (_user_sweep_first(fact), fact.user_sweep_by),
        (_global_sweep_first(fact), fact.global_sweep_by),
        else_=literal(InitiatingEntity.POLICY, sessions.c.initiating_entity.type),
    )


def _swept(
    condition: ColumnElement[bool],
    column: ColumnElement[Any],
    user_id: ColumnElement[str],
    epoch: ColumnElement[int],
    undated: object,
) -> ColumnElement[Any]:
    """Return a column of the first sweep after an epoch; never or null where there was none."""
    found = (
        select(column)
        .where(sweeps.c.user_id == user_id, sweeps.c.epoch == epoch + 1)
        .scalar_subquery()
    )
    none = _NEVER if column.type is sweeps.c.sweep_time.type else null()
    return case(
        (condition, func.coalesce(found, literal(undated, column.type), type_=column.type)),
        else_=none,
    )


def _covering(
    user_id: ColumnElement[str], epoch: ColumnElement[int], when: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Say whether the first sweep after an epoch was at a time."""
    return (
        select(sweeps.c.epoch)
        .where(sweeps.c.user_id == user_id, sweeps.c.epoch == epoch + 1, when)
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
