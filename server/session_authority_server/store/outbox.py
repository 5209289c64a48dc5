from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    Update,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.receiver import (
    Delivery,
    EventType,
    Receiver,
    ReceiverKind,
    ReceiverState,
)
from session_authority_server.ports.outbox import Backlog
from session_authority_server.store.database import Database
from session_authority_server.store.receivers import as_receiver
from session_authority_server.store.tables import api_keys, outbox, receivers

# The most events that one transaction drops.
DROP_BATCH = 5_000
_COUNT_SECONDS = 60


def _due_without_index(table: FromClause) -> ColumnElement[datetime]:
    """Return the due time in a form that no index serves.

    SQLite would otherwise find the events of a user by an index that leads to all events that wait.
    """
    return func.coalesce(table.c.due_time, table.c.create_time, type_=outbox.c.due_time.type)


_earlier = outbox.alias()
_PENDING = outbox.c.delivered_time.is_(None)
_DELIVERY = tuple(
    outbox.c[name]
    for name in (
        "sequence",
        "event_id",
        "user_id",
        "event_type",
        "payload",
        "create_time",
        "attempts",
        "first_failure_time",
    )
)
# `due` sorts by due time, but must return a user's events by sequence. After a failure, the failed event can be due
# later than a new one. So an event is left out while an earlier waiting event of the user is due later. The events
# after it are left out too, because they must not pass it.
_due_before = (
    select(
        _due_without_index(_earlier).label("due_time"),
        func.max(_due_without_index(_earlier))
        .over(order_by=_earlier.c.sequence, rows=(None, -1))
        .label("latest_before"),
    )
    .where(
        _earlier.c.user_id == outbox.c.user_id,
        _earlier.c.receiver_id == outbox.c.receiver_id,
        _earlier.c.delivered_time.is_(None),
        _earlier.c.sequence <= outbox.c.sequence,
    )
    .correlate(outbox)
    .subquery()
)
# Not EXISTS, which PostgreSQL would turn into a join over the events of all users.
_OVERTAKES = (
    select(literal(1))
    .where(_due_before.c.due_time < _due_before.c.latest_before)
    .limit(1)
    .scalar_subquery()
    .is_not(None)
)


class SqlOutbox:
    """`ports.outbox.Outbox` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the outbox in a database."""
        self._database = database

    async def lease(self, worker_id: UUID, now: datetime, seconds: float) -> Sequence[Receiver]:
        statement = (
            update(receivers)
            .where(
                receivers.c.state == ReceiverState.ACTIVE,
                receivers.c.kind != ReceiverKind.SSF_POLL,
                _may_receive(now),
                or_(
                    receivers.c.lease_holder.is_(None),
                    receivers.c.lease_holder == worker_id,
                    receivers.c.lease_until <= now,
                ),
            )
            .values(lease_holder=worker_id, lease_until=now + timedelta(seconds=seconds))
            .returning(receivers)
        )

        async def work(connection: AsyncConnection) -> Sequence[Receiver]:
            return [as_receiver(row) for row in await connection.execute(statement)]

        return await self._database.write(work)

    async def release(self, worker_id: UUID) -> None:
        statement = (
            update(receivers)
            .where(receivers.c.lease_holder == worker_id)
            .values(lease_holder=None, lease_until=None)
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def due(
        self, receiver_id: UUID, now: datetime, limit: int, busy_users: Collection[str] = ()
    ) -> Sequence[Delivery]:
        statement = (
            select(*_DELIVERY)
            .where(
                outbox.c.receiver_id == receiver_id,
                _PENDING,
                outbox.c.due_time <= now,
                ~_OVERTAKES,
            )
            .order_by(outbox.c.due_time, outbox.c.sequence)
            .limit(limit)
        )
        if busy_users:
            free = outbox.c.user_id.not_in(list(busy_users))
            statement = statement.where(or_(outbox.c.user_id.is_(None), free))

        async def work(connection: AsyncConnection) -> Sequence[Delivery]:
            return [_delivery(row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def settle(
        self, receiver_id: UUID, worker_id: UUID, delivered: Sequence[int], now: datetime
    ) -> None:
        holding = _leased(receiver_id, worker_id).values(last_success_time=now, failing_since=None)
        settling = (
            update(outbox)
            .where(
                outbox.c.receiver_id == receiver_id,
                outbox.c.sequence.in_(delivered),
                _PENDING,
            )
            .values(delivered_time=now)
        )

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(holding)).rowcount:
                await connection.execute(settling)

        if delivered:
            await self._database.write(work)

    async def postpone(
        self,
        receiver_id: UUID,
        worker_id: UUID,
        sequence: int,
        due_time: datetime,
        problem: str,
        now: datetime,
    ) -> None:
        failing_since = func.coalesce(
            receivers.c.failing_since, literal(now, receivers.c.failing_since.type)
        )
        holding = _leased(receiver_id, worker_id).values(
            last_failure_time=now, failing_since=failing_since, problem=problem
        )
        first_failure = func.coalesce(
            outbox.c.first_failure_time, literal(now, outbox.c.first_failure_time.type)
        )
        failing = (
            update(outbox)
            .where(outbox.c.sequence == sequence, outbox.c.receiver_id == receiver_id, _PENDING)
            .values(
                attempts=outbox.c.attempts + 1,
                due_time=due_time,
                first_failure_time=first_failure,
            )
            .returning(outbox.c.user_id)
        )

        async def work(connection: AsyncConnection) -> None:
            if not (await connection.execute(holding)).rowcount:
                return
            failed = (await connection.execute(failing)).one_or_none()
            if failed is not None and failed.user_id is not None:
                # `due` would leave the later events out. Moving them spares it from reading them each time.
                waiting = update(outbox).where(
                    outbox.c.user_id == failed.user_id,
                    outbox.c.receiver_id == receiver_id,
                    _PENDING,
                    outbox.c.sequence > sequence,
                    _due_without_index(outbox) < due_time,
                )
                await connection.execute(waiting.values(due_time=due_time))

        await self._database.write(work)

    async def park(self, receiver_id: UUID, worker_id: UUID, problem: str, now: datetime) -> bool:
        statement = (
            _leased(receiver_id, worker_id)
            .where(receivers.c.state == ReceiverState.ACTIVE)
            .values(state=ReceiverState.PARKED, problem=problem, last_failure_time=now)
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount == 1

        return await self._database.write(work)

    async def drop_excess(self, limit: int) -> Mapping[str, int]:
        dropped: dict[str, int] = {}
        for receiver_id, name, _ in await self._receivers():
            excess = await self._pending(receiver_id) - limit
            while excess > 0:
                count = await self._drop(receiver_id, min(excess, DROP_BATCH))
                if not count:
                    break
                excess -= count
                dropped[name] = dropped.get(name, 0) + count
        return dropped

    async def _drop(self, receiver_id: UUID, limit: int) -> int:
        oldest = (
            select(outbox.c.sequence)
            .where(outbox.c.receiver_id == receiver_id, _PENDING)
            .order_by(outbox.c.sequence)
            .limit(limit)
        )

        receiver = receivers.c.receiver_id == receiver_id
        # First the receiver, as in `settle` and `postpone`, to avoid deadlocks with them.
        locking = select(receivers.c.name).where(receiver).with_for_update()

        async def work(connection: AsyncConnection) -> int:
            await connection.execute(locking)
            dropping = delete(outbox).where(outbox.c.sequence.in_(oldest), _PENDING)
            count = (await connection.execute(dropping)).rowcount
            counting = update(receivers).where(receiver)
            await connection.execute(counting.values(dropped=receivers.c.dropped + count))
            return count

        return await self._database.write(work)

    async def purge_delivered(self, before: datetime, limit: int) -> int:
        old = (
            select(outbox.c.sequence)
            .where(outbox.c.delivered_time < before)
            .order_by(outbox.c.delivered_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self._delete(old)

    async def purge_removed(self, removed_before: datetime, limit: int) -> int:
        removed = receivers.c.state == ReceiverState.REMOVED
        gone = select(receivers.c.receiver_id).where(removed)
        left = select(outbox.c.sequence).where(outbox.c.receiver_id.in_(gone)).limit(limit)
        deleted = await self._delete(left)
        if deleted == 0:
            # A transaction that read the receiver before its removal has committed its events by now.
            of_receiver = exists().where(outbox.c.receiver_id == receivers.c.receiver_id)
            forgetting = delete(receivers).where(
                removed, receivers.c.remove_time < removed_before, ~of_receiver
            )
            await self._database.write(lambda connection: connection.execute(forgetting))
        return deleted

    async def backlogs(self, limit: int) -> Mapping[str, Backlog]:
        return {
            name: Backlog(
                state, await self._pending(receiver_id, limit), await self._oldest(receiver_id)
            )
            for receiver_id, name, state in await self._receivers()
        }

    async def _receivers(self) -> Sequence[tuple[UUID, str, ReceiverState]]:
        statement = (
            select(receivers.c.receiver_id, receivers.c.name, receivers.c.state)
            .where(receivers.c.state != ReceiverState.REMOVED)
            .order_by(receivers.c.receiver_id)
        )

        async def work(connection: AsyncConnection) -> Sequence[tuple[UUID, str, ReceiverState]]:
            return [tuple(row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def _pending(self, receiver_id: UUID, limit: int | None = None) -> int:
        pending = select(outbox.c.sequence).where(outbox.c.receiver_id == receiver_id, _PENDING)
        counting = select(func.count()).select_from(pending.limit(limit).subquery())

        async def count(connection: AsyncConnection) -> int:
            return (await connection.execute(counting)).scalar_one()

        async def count_for_long(connection: AsyncConnection) -> int:
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_COUNT_SECONDS}s'")
            return await count(connection)

        # No RPC waits for this count, and after a long outage of a receiver a million events wait.
        if self._database.dialect.takes_arrays:
            return await self._database.write(count_for_long, limited=False)
        # SQLite runs one writer at a time, so counting in a transaction would delay all writes.
        return await self._database.read(count)

    async def _oldest(self, receiver_id: UUID) -> datetime | None:
        first = (
            select(outbox.c.create_time)
            .where(outbox.c.receiver_id == receiver_id, _PENDING)
            .order_by(outbox.c.sequence)
            .limit(1)
        )

        async def work(connection: AsyncConnection) -> datetime | None:
            oldest: datetime | None = (await connection.execute(first)).scalar_one_or_none()
            return oldest

        return await self._database.read(work)

    async def _delete(self, sequences: Select[int]) -> int:
        deleting = delete(outbox).where(outbox.c.sequence.in_(sequences))

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(deleting)).rowcount

        return await self._database.write(work)


def _may_receive(now: datetime) -> ColumnElement[bool]:
    """Return the condition that the owner of a stream still has a key.

    Webhooks have no owner, and streams of a server without API keys have an owner without a name.
    """
    usable = exists().where(
        api_keys.c.name == receivers.c.owner,
        api_keys.c.revoke_time.is_(None),
        or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > now),
    )
    return or_(func.coalesce(receivers.c.owner, "") == "", usable)


def _leased(receiver_id: UUID, worker_id: UUID) -> Update:
    return update(receivers).where(
        receivers.c.receiver_id == receiver_id, receivers.c.lease_holder == worker_id
    )


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**{**row._mapping, "event_type": EventType(row.event_type)})
