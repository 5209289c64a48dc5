import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    func,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.event import SessionEnded, SessionEstablished
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.session import Session
from session_authority_server.observability.metrics import SESSIONS_CREATED, SESSIONS_ENDED
from session_authority_server.ports.store import (
    NO_AUDIT,
    Audit,
    ErasureBatch,
    Listener,
    PageKey,
    PendingErasure,
    Touch,
    TouchesSkipped,
    Transaction,
)
from session_authority_server.store import erasing, rows
from session_authority_server.store.database import Database
from session_authority_server.store.liveness import (
    expires,
    facts,
    implied_end_time,
    is_live,
    is_swept,
)
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.tables import sessions
from session_authority_server.store.touches import still_due, touch_all, touch_each
from session_authority_server.store.transaction import SqlTransaction

T = TypeVar("T")
# The pauses before each attempt to touch sessions. An attempt skips sessions that other transactions have locked.
_TOUCH_PAUSES_SECONDS = (0, 0.005, 0.02, 0.08, 0.2)


class SqlSessionStore:
    """`ports.store.SessionStore` in SQL."""

    def __init__(
        self,
        database: Database,
        *,
        erases_at_end: bool = False,
        listener: Listener | None = None,
        audit: Audit = NO_AUDIT,
        reporter: Reporter | None = None,
    ) -> None:
        """Keep sessions in a database.

        Args:
            database: The database.
            erases_at_end: Whether to erase addresses and the user agent when a session ends.
            listener: Receives changes in this process, for a database without notifications.
            audit: Records the events of transactions.
            reporter: Writes the events of transactions for the receivers.
        """
        self._database = database
        self._erases_at_end = erases_at_end
        self._listener = listener
        self._audit = audit
        self._reporter = reporter

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        found = await self._database.read_hot(session_ids)
        if any(map(rows.needs_sweep, found)):
            swept = found
            found = await self._database.read(
                lambda connection: rows.with_sweeps(connection, swept)
            )
        return {session.session_id: session for session in found}

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        dialect, listener = self._database.dialect, self._listener

        async def in_transaction(connection: AsyncConnection) -> tuple[T, SqlTransaction]:
            transaction = SqlTransaction(
                connection,
                dialect,
                erases_at_end=self._erases_at_end,
                fence=self._database.fence,
                reporter=self._reporter,
            )
            result = await work(transaction)
            await transaction.write_reports()
            await transaction.mark_ending()
            if transaction.changes:
                await dialect.announce(connection, transaction.changes)
                if listener is not None:
                    # Keep this the last step before the commit. If a step in between failed, `listener.committed`
                    # would never be called.
                    listener.committing()
            return result, transaction

        def settled(done: tuple[T, SqlTransaction], certain: bool) -> None:
            changes = done[1].changes
            if listener is not None and changes:
                listener.committed(changes, certain=certain)

        def committed(done: tuple[T, SqlTransaction]) -> None:
            done[1].note_mark()
            events = done[1].events
            for event in events:
                if isinstance(event, SessionEstablished):
                    SESSIONS_CREATED.inc()
                elif isinstance(event, SessionEnded):
                    SESSIONS_ENDED.inc(event.ending.reason.value)
            self._audit.record(*events)

        result, transaction = await self._database.write(in_transaction, committed, settled=settled)
        await transaction.save_mark()
        return result

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        if not touches:
            return 0

        in_order: Sequence[Touch] = sorted(touches, key=lambda touch: touch.session_id)
        if not self._database.dialect.takes_arrays:
            return await self._database.write(
                lambda connection: touch_each(connection, in_order, now)
            )
        moved = 0
        for pause in _TOUCH_PAUSES_SECONDS:
            await asyncio.sleep(pause)
            moved_now, in_order = await self._touch_all(in_order, now)
            moved += moved_now
            if not in_order:
                return moved
        raise TouchesSkipped(in_order)

    async def _touch_all(
        self, due: Sequence[Touch], now: Callable[[], datetime]
    ) -> tuple[int, Sequence[Touch]]:
        """Touch the sessions that are not locked. Return their number, and the touches to repeat."""
        moved = await self._database.write(lambda connection: touch_all(connection, due, now))
        if moved == len(due):
            return moved, ()
        # The other sessions were touched by another call, have ended, or were locked. Repeat only the locked ones.
        return moved, await self._database.read(
            lambda connection: still_due(connection, due, now())
        )

    async def erase_some(self, erasure: PendingErasure, limit: int) -> ErasureBatch:
        deleted = await self._database.write(
            lambda connection: erasing.delete_sessions(connection, erasure, limit)
        )
        if deleted == limit:
            return ErasureBatch(deleted, complete=False)
        # `finish` locks the user. It needs its own transaction, because `delete_sessions` has locked sessions: a
        # transaction that locks both must lock the user first.
        complete = await self._database.write(
            lambda connection: erasing.finish(connection, erasure)
        )
        return ErasureBatch(deleted, complete)

    async def list_live(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        return await self._list_active(user_id, is_live(now), after, limit)

    async def count_live(self, user_id: str, now: datetime, limit: int) -> int:
        live = (
            select(sessions.c.session_id)
            .where(sessions.c.user_id == user_id, is_live(now))
            .limit(limit)
            .subquery()
        )
        statement = select(func.count()).select_from(live)

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).scalar_one()

        return await self._database.read(work)

    async def list_used_since(
        self,
        user_id: str,
        now: datetime,
        created_until: datetime,
        used_since: datetime,
        after: PageKey | None,
        limit: int,
    ) -> Sequence[Session]:
        condition = and_(
            is_live(now),
            sessions.c.create_time <= created_until,
            sessions.c.last_active_time > used_since,
        )
        return await self._list_active(user_id, condition, after, limit)

    async def list_ended(
        self, user_id: str, now: datetime, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        statements = (
            _expired(user_id, now, after, limit),
            _idle_or_swept(user_id, now, after, limit),
            _recorded(user_id, after, limit),
        )

        def end_key(session: Session) -> tuple[datetime, UUID]:
            ending = ending_of(session, now)
            assert ending is not None
            return ending.time, session.session_id

        async def work(connection: AsyncConnection) -> Sequence[Session]:
            # Recorded endings are read last. If the worker records an ending between two of the reads, both find it,
            # instead of neither.
            found: dict[UUID, Session] = {}
            for statement in statements:
                for session in await rows.read(connection, statement):
                    found.setdefault(session.session_id, session)
            return sorted(found.values(), key=end_key, reverse=True)[:limit]

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


def _recorded(user_id: str, after: PageKey | None, limit: int) -> Select[Any]:
    """Return a SELECT of a user's sessions whose endings are recorded, the latest first."""
    statement = (
        rows.select_sessions()
        .where(sessions.c.user_id == user_id, sessions.c.end_time.is_not(None))
        .order_by(sessions.c.end_time.desc(), sessions.c.session_id.desc())
        .limit(limit)
    )
    return statement if after is None else statement.where(_comes_after(sessions.c.end_time, after))


def _expired(user_id: str, now: datetime, after: PageKey | None, limit: int) -> Select[Any]:
    """Return a SELECT of a user's sessions that have expired, the latest first. No ending is recorded for them."""
    # The index has the same order, so the engine reads only the rows of the page.
    until = now if after is None else min(now, after.time)
    statement = (
        rows.select_sessions()
        .where(
            sessions.c.user_id == user_id,
            sessions.c.end_time.is_(None),
            sessions.c.expire_time <= until,
            expires(),
        )
        # All these rows have a null `end_time`, so sorting by `end_time` changes nothing. But the index begins with
        # `end_time`, and PostgreSQL uses the index's order only if ORDER BY names the same columns.
        .order_by(
            sessions.c.end_time.desc(), sessions.c.expire_time.desc(), sessions.c.session_id.desc()
        )
        .limit(limit)
    )
    return (
        statement if after is None else statement.where(_comes_after(sessions.c.expire_time, after))
    )


def _idle_or_swept(user_id: str, now: datetime, after: PageKey | None, limit: int) -> Select[Any]:
    """Return a SELECT of a user's sessions that idleness or a sweep has ended, but whose endings are not recorded."""
    due = (
        select(sessions.c.session_id, *facts(now))
        .where(
            sessions.c.user_id == user_id,
            sessions.c.end_time.is_(None),
            or_(sessions.c.idle_timeout.is_not(None), is_swept()),
            ~is_live(now),
            or_(sessions.c.expire_time > now, ~expires()),
        )
        .subquery()
    )
    end_time = implied_end_time(due.c)
    next_due = select(due.c.session_id).order_by(end_time.desc(), due.c.session_id.desc())
    if after is not None:
        next_due = next_due.where(_comes_after(end_time, after, due.c.session_id))
    return rows.select_sessions().where(sessions.c.session_id.in_(next_due.limit(limit)))


def _comes_after(
    time: ColumnElement[Any],
    key: PageKey,
    session_id: ColumnElement[Any] = sessions.c.session_id,
) -> ColumnElement[bool]:
    """Return the condition that a row comes after a key, in descending order of time and id."""
    return or_(time < key.time, and_(time == key.time, session_id < key.session_id))
