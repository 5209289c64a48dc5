"""Statements that move the last-active times of sessions forward."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    Select,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.ports.store import Touch
from session_authority_server.store.column_types import Address, Id, Moment
from session_authority_server.store.liveness import is_live
from session_authority_server.store.tables import sessions


def _one() -> Update:
    time = bindparam("touch_time", type_=Moment)
    address = bindparam("touch_address", type_=Address)
    return (
        update(sessions)
        .where(
            sessions.c.session_id == bindparam("touched_id", type_=Id),
            sessions.c.last_active_time < time,
            is_live(bindparam("touch_now", type_=Moment)),
        )
        .values(
            last_active_time=time,
            last_ip_address=case((address.is_not(None), address), else_=sessions.c.last_ip_address),
        )
    )


def _due() -> Select[Any]:
    """Return the statement that selects the touches of a batch that would move a live session's time."""
    batch = (
        func.unnest(
            bindparam("ids", type_=ARRAY(Id())),
            bindparam("times", type_=ARRAY(Moment())),
            bindparam("addresses", type_=ARRAY(Text())),
        )
        .table_valued(column("session_id", Id), column("time", Moment), column("address", Text))
        .render_derived("batch")
    )
    return (
        select(sessions.c.session_id, batch.c.time, batch.c.address)
        .join(batch, batch.c.session_id == sessions.c.session_id)
        .where(
            sessions.c.last_active_time < batch.c.time,
            is_live(bindparam("touch_now", type_=Moment)),
        )
    )


def _all() -> Update:
    """Return the statement that touches a whole batch, but skips sessions that other transactions have locked."""
    due = (
        _due()
        .order_by(sessions.c.session_id)
        .with_for_update(key_share=True, skip_locked=True, of=sessions)
        .cte("due")
    )
    address = cast(due.c.address, Address)
    return (
        update(sessions)
        .where(sessions.c.session_id == due.c.session_id)
        .values(
            last_active_time=due.c.time,
            last_ip_address=func.coalesce(address, sessions.c.last_ip_address),
        )
    )


_ONE = _one()
_ALL = _all()
_DUE = _due()


async def touch_each(
    connection: AsyncConnection, touches: Sequence[Touch], now: Callable[[], datetime]
) -> int:
    """Touch sessions with one statement per session, and return how many were touched."""
    moment = now()
    parameters: list[dict[str, Any]] = [
        {
            "touched_id": touch.session_id,
            "touch_time": touch.time,
            "touch_address": touch.ip_address,
            "touch_now": moment,
        }
        for touch in touches
    ]
    return (await connection.execute(_ONE, parameters)).rowcount


async def touch_all(
    connection: AsyncConnection, touches: Sequence[Touch], now: Callable[[], datetime]
) -> int:
    """Touch sessions with one statement for all, and return how many were touched. Skips locked sessions."""
    return (await connection.execute(_ALL, _as_batch(touches, now()))).rowcount


async def still_due(
    connection: AsyncConnection, touches: Sequence[Touch], now: datetime
) -> list[Touch]:
    """Return the touches that would still move a live session's time."""
    rows = await connection.execute(_DUE, _as_batch(touches, now))
    due = {row.session_id for row in rows}
    return [touch for touch in touches if touch.session_id in due]


def _as_batch(touches: Sequence[Touch], now: datetime) -> dict[str, Any]:
    return {
        "ids": [touch.session_id for touch in touches],
        "times": [touch.time for touch in touches],
        "addresses": [touch.ip_address for touch in touches],
        "touch_now": now,
    }
