from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    and_,
    bindparam,
    case,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.column_types import Address, Id, Moment
from session_authority_server.store.database import Database
from session_authority_server.store.liveness import facts, implied_end_time, is_live
from session_authority_server.store.protocol import PageKey, Touch, Transaction
from session_authority_server.store.tables import sessions
from session_authority_server.store.transaction import SqlTransaction

T = TypeVar("T")


def _touch_statement() -> Any:
    time = bindparam("touch_time", type_=Moment)
    address = bindparam("touch_address", type_=Address)
    newer = sessions.c.last_active_time < time
    return (
        update(sessions)
        .where(
            sessions.c.session_id == bindparam("touched_id", type_=Id),
            newer,
            is_live(bindparam("touch_now", type_=Moment)),
        )
        .values(
            last_active_time=time,
            last_ip_address=case((address.is_not(None), address), else_=sessions.c.last_ip_address),
        )
    )


_TOUCH = _touch_statement()


class SqlSessionStore:
    """`protocol.SessionStore` in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        found = await self._database.read_hot(session_ids)
        if any(map(rows.needs_date, found)):
            swept = found
            found = await self._database.read(lambda connection: rows.dated(connection, swept))
        return {session.session_id: session for session in found}

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def in_transaction(connection: AsyncConnection) -> T:
            return await work(SqlTransaction(connection))

        return await self._database.write(in_transaction)

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        if not touches:
            return 0

        async def work(connection: AsyncConnection) -> int:
            moment = now()
            result = await connection.execute(
                _TOUCH,
                [
                    {
                        "touched_id": touch.session_id,
                        "touch_time": touch.time,
                        "touch_address": touch.ip_address,
                        "touch_now": moment,
                    }
                    for touch in sorted(touches, key=lambda touch: touch.session_id)
                ],
            )
            return result.rowcount

        return await self._database.write(work)

    async def list_live(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        return await self._list_active(user_id, is_live(now), after, limit)

    async def list_used_since(
        self,
        user_id: str,
        now: datetime,
        made_until: datetime,
        used_since: datetime,
        after: PageKey | None,
        limit: int,
    ) -> Sequence[Session]:
        condition = and_(
            is_live(now),
            sessions.c.create_time <= made_until,
            sessions.c.last_active_time > used_since,
        )
        return await self._list_active(user_id, condition, after, limit)

    async def list_ended(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        recorded = (
            rows.select_sessions()
            .where(sessions.c.user_id == user_id, sessions.c.end_time.is_not(None))
            .order_by(sessions.c.end_time.desc(), sessions.c.session_id.desc())
            .limit(limit)
        )
        if after is not None:
            recorded = recorded.where(_comes_after(sessions.c.end_time, after))
        due = (
            select(sessions.c.session_id, *facts(now))
            .where(sessions.c.user_id == user_id, sessions.c.end_time.is_(None), ~is_live(now))
            .subquery()
        )
        end_time = implied_end_time(due.c)
        next_due = select(due.c.session_id).order_by(end_time.desc(), due.c.session_id.desc())
        if after is not None:
            next_due = next_due.where(_comes_after(end_time, after, due.c.session_id))
        implied = rows.select_sessions().where(sessions.c.session_id.in_(next_due.limit(limit)))

        def end_key(session: Session) -> tuple[datetime, UUID]:
            ending = ending_of(session, now)
            assert ending is not None
            return ending.time, session.session_id

        async def work(connection: AsyncConnection) -> Sequence[Session]:
            # In this order: an ending that a worker records between the two reads is then among both.
            due_first = await rows.read(connection, implied)
            found = await rows.read(connection, recorded)
            seen = {session.session_id for session in found}
            found += [session for session in due_first if session.session_id not in seen]
            return sorted(found, key=end_key, reverse=True)[:limit]

        return await self._database.read(work)

    async def _list_active(
        self, user_id: str, condition: ColumnElement[bool], after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        statement = (
            rows.select_sessions()
            .where(sessions.c.user_id == user_id, condition)
            .order_by(sessions.c.last_active_time.desc(), sessions.c.session_id.desc())
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(_comes_after(sessions.c.last_active_time, after))
        return await self._database.read(lambda connection: rows.read(connection, statement))


def _comes_after(
    time: ColumnElement[Any],
    key: PageKey,
    session_id: ColumnElement[Any] = sessions.c.session_id,
) -> ColumnElement[bool]:
    """Say whether a row sorts after a key, the latest first."""
    return or_(time < key.time, and_(time == key.time, session_id < key.session_id))
