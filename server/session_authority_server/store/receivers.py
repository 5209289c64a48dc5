from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Row, Update, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.receiver import EventType, Receiver, ReceiverState
from session_authority_server.ports.outbox import Outcome
from session_authority_server.store.database import Database
from session_authority_server.store.tables import outbox, receivers

_KEPT = receivers.c.state != ReceiverState.REMOVED
_KNOWN = {each.value: each for each in EventType}
_FIELDS = tuple(Receiver.__dataclass_fields__)


class SqlReceiverStore:
    """`ports.outbox.ReceiverStore` in SQL."""

    def __init__(self, database: Database, *, reads_from: Database | None = None) -> None:
        """Keep receivers in a database.

        Args:
            database: The database.
            reads_from: The same database with other connections, for reads that must never queue behind other reads.
        """
        self._database = database
        self._reads_from = reads_from or database

    async def wanted(self) -> frozenset[EventType]:
        statement = select(receivers.c.event_types)

        async def work(connection: AsyncConnection) -> frozenset[EventType]:
            found = (await connection.execute(statement)).scalars().all()
            types = {_KNOWN[name] for names in found for name in names if name in _KNOWN}
            return frozenset(types | {EventType.TEST} if found else ())

        return await self._reads_from.read(work)

    async def read_receivers(self) -> Sequence[Receiver]:
        statement = select(receivers).where(_KEPT).order_by(receivers.c.receiver_id)

        async def work(connection: AsyncConnection) -> Sequence[Receiver]:
            return [as_receiver(row) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def add_receiver(self, receiver: Receiver, start_time: datetime) -> bool:
        values = {name: getattr(receiver, name) for name in _FIELDS} | {
            "event_types": tuple(sorted(each.value for each in receiver.event_types)),
            "start_time": start_time,
        }
        named = select(receivers.c.receiver_id).where(receivers.c.name == receiver.name)

        async def work(connection: AsyncConnection) -> bool:
            # Two calls at once violate the unique index, and then one of them runs again.
            if (await connection.execute(named)).one_or_none() is not None:
                return False
            await connection.execute(insert(receivers).values(values))
            return True

        return await self._database.write(work)

    async def set_state(self, receiver_id: UUID, state: ReceiverState) -> bool:
        changing = _kept(receiver_id).values(state=state)
        if state is ReceiverState.ACTIVE:
            changing = changing.values(failing_since=None)
        return await self._change(changing)

    async def remove_receiver(self, receiver_id: UUID, now: datetime) -> bool:
        removing = _kept(receiver_id).values(
            state=ReceiverState.REMOVED, name=None, remove_time=now, lease_holder=None
        )
        return await self._change(removing)

    async def rotate_key(self, receiver_id: UUID, generation: int, now: datetime) -> bool:
        rotating = (
            _kept(receiver_id)
            .where(receivers.c.generation == generation)
            .values(generation=generation + 1, rotate_time=now)
        )
        return await self._change(rotating)

    async def add_test(self, receiver_id: UUID, event_id: UUID, payload: str, now: datetime) -> int:
        adding = (
            insert(outbox)
            .values(
                event_id=event_id,
                receiver_id=receiver_id,
                event_type=EventType.TEST.value,
                payload=payload,
                create_time=now,
                # A test must not wait behind a million events.
                due_time=select(receivers.c.create_time)
                .where(receivers.c.receiver_id == receiver_id)
                .scalar_subquery(),
                attempts=0,
            )
            .returning(outbox.c.sequence)
        )

        async def work(connection: AsyncConnection) -> int:
            sequence: int = (await connection.execute(adding)).scalar_one()
            return sequence

        return await self._database.write(work)

    async def read_test(self, sequence: int) -> Outcome | None:
        statement = (
            select(outbox.c.delivered_time, outbox.c.attempts, receivers.c.problem)
            .join(receivers, receivers.c.receiver_id == outbox.c.receiver_id)
            .where(outbox.c.sequence == sequence)
        )

        async def work(connection: AsyncConnection) -> Outcome | None:
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                return None
            return Outcome(row.delivered_time is not None, row.attempts, row.problem)

        return await self._database.read(work)

    async def hurry(self, receiver_id: UUID, now: datetime, limit: int) -> int:
        waiting = (
            select(outbox.c.sequence)
            .where(
                outbox.c.receiver_id == receiver_id,
                outbox.c.delivered_time.is_(None),
                or_(outbox.c.due_time > now, outbox.c.first_failure_time.is_not(None)),
            )
            .limit(limit)
        )
        hurrying = update(outbox).where(outbox.c.sequence.in_(waiting))
        return await self._count(hurrying.values(due_time=now, attempts=0, first_failure_time=None))

    async def replay(
        self, receiver_id: UUID, since: datetime, now: datetime, after: int, limit: int
    ) -> Sequence[int]:
        delivered = (
            select(outbox.c.sequence)
            .where(
                outbox.c.receiver_id == receiver_id,
                outbox.c.delivered_time.is_not(None),
                outbox.c.create_time >= since,
                outbox.c.sequence > after,
            )
            .order_by(outbox.c.sequence)
            .limit(limit)
        )
        replaying = (
            update(outbox)
            .where(outbox.c.sequence.in_(delivered))
            .values(delivered_time=None, due_time=now, attempts=0, first_failure_time=None)
            .returning(outbox.c.sequence)
        )

        async def work(connection: AsyncConnection) -> Sequence[int]:
            found: Sequence[int] = (await connection.execute(replaying)).scalars().all()
            return found

        return await self._database.write(work)

    async def _change(self, statement: Update) -> bool:
        return await self._count(statement) == 1

    async def _count(self, statement: Executable) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._database.write(work)


def as_receiver(row: Row[Any]) -> Receiver:
    """Return the receiver of a row of `receivers`."""
    values = {name: row._mapping[name] for name in _FIELDS}
    # Ignore types that only a newer release knows.
    types = frozenset(_KNOWN[name] for name in row.event_types if name in _KNOWN)
    return Receiver(**values | {"event_types": types})


def _kept(receiver_id: UUID) -> Update:
    return update(receivers).where(receivers.c.receiver_id == receiver_id, _KEPT)
