from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.errors import ReceiverLimitReached
from session_authority_server.domain.event_stream import (
    STATES,
    EventStream,
    StreamStatus,
    receiver_name,
)
from session_authority_server.domain.receiver import EventType, ReceiverKind, ReceiverState
from session_authority_server.domain.token import new_id
from session_authority_server.store.database import Database
from session_authority_server.store.tables import outbox, receivers

_STATUSES = {state: status for status, state in STATES.items()}
_KEPT = receivers.c.state != ReceiverState.REMOVED
_PENDING = outbox.c.delivered_time.is_(None)


class SqlEventStreamStore:
    """`ports.streams.EventStreamStore` in SQL. A stream is a row of `receivers` with an owner."""

    def __init__(self, database: Database) -> None:
        """Keep streams in a database."""
        self._database = database

    async def add_stream(self, stream: EventStream, start_time: datetime, limit: int) -> bool:
        # Names are unique, so each owner has one stream at most.
        name = receiver_name(stream.owner)
        values = _settings(stream) | {
            "receiver_id": stream.stream_id,
            "name": name,
            "owner": stream.owner,
            "state": STATES[stream.status],
            "status_reason": stream.reason,
            "verify_time": stream.verify_time,
            "generation": 1,
            "create_time": stream.create_time,
            "start_time": start_time,
            "problem": "",
            "dropped": 0,
        }
        named = select(receivers.c.receiver_id).where(receivers.c.name == name)
        counting = select(func.count()).select_from(receivers).where(_KEPT)

        async def work(connection: AsyncConnection) -> bool:
            # Two calls at once violate the unique index, and then one of them runs again.
            if (await connection.execute(named)).one_or_none() is not None:
                return False
            if (await connection.execute(counting)).scalar_one() >= limit:
                raise ReceiverLimitReached(limit)
            await connection.execute(insert(receivers).values(values))
            return True

        return await self._database.write(work)

    async def read_stream(self, owner: str) -> EventStream | None:
        statement = select(receivers).where(_KEPT, receivers.c.owner == owner)

        async def work(connection: AsyncConnection) -> EventStream | None:
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else _stream(row)

        return await self._database.read(work)

    async def change_stream(
        self,
        stream_id: UUID,
        owner: str,
        change: Callable[[EventStream], EventStream],
        now: datetime,
        body: str | None = None,
    ) -> EventStream | None:
        owned = _owned(stream_id, owner)
        reading = select(receivers).where(owned).with_for_update()

        async def work(connection: AsyncConnection) -> EventStream | None:
            row = (await connection.execute(reading)).one_or_none()
            if row is None:
                return None
            before = _stream(row)
            after = change(before)
            values = _settings(after) | {"verify_time": after.verify_time}
            if after.status is not before.status or after.reason != before.reason:
                values |= {"state": STATES[after.status], "status_reason": after.reason}
            fresh = _is_fresh_start(before, after)
            if fresh:
                values |= {"failing_since": None}
            await connection.execute(update(receivers).where(owned).values(values))
            if fresh:
                await connection.execute(_hurrying(stream_id, now))
            if body is not None:
                await connection.execute(_adding(stream_id, body, now))
            return after

        return await self._database.write(work)

    async def remove_stream(self, stream_id: UUID, owner: str, now: datetime) -> bool:
        removing = (
            update(receivers)
            .where(_owned(stream_id, owner))
            .values(
                state=ReceiverState.REMOVED,
                name=None,
                remove_time=now,
                lease_holder=None,
                sealed_authorization=None,
            )
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(removing)).rowcount == 1

        return await self._database.write(work)

    async def discard(self, stream_id: UUID, limit: int) -> int:
        waiting = (
            select(outbox.c.sequence)
            .where(outbox.c.receiver_id == stream_id, _PENDING)
            .order_by(outbox.c.sequence)
            .limit(limit)
        )
        discarding = delete(outbox).where(outbox.c.sequence.in_(waiting), _PENDING)

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(discarding)).rowcount

        return await self._database.write(work)

    async def acknowledge(
        self, stream_id: UUID, events: Sequence[tuple[UUID, int]], now: datetime, problem: str = ""
    ) -> None:
        named = set(events)
        waiting = select(outbox.c.event_id, outbox.c.sequence).where(
            outbox.c.receiver_id == stream_id,
            outbox.c.sequence.in_([sequence for _, sequence in events]),
            _PENDING,
        )
        noting = update(receivers).where(receivers.c.receiver_id == stream_id)
        noted = (
            noting.values(last_failure_time=now, problem=problem)
            if problem
            else noting.values(last_success_time=now)
        )

        async def work(connection: AsyncConnection) -> None:
            found = [
                row.sequence
                for row in await connection.execute(waiting)
                if (row.event_id, row.sequence) in named
            ]
            if found:
                settling = update(outbox).where(outbox.c.sequence.in_(found), _PENDING)
                await connection.execute(settling.values(delivered_time=now))
                await connection.execute(noted)

        await self._database.write(work)


def _owned(stream_id: UUID, owner: str) -> ColumnElement[bool]:
    return (receivers.c.receiver_id == stream_id) & (receivers.c.owner == owner) & _KEPT


def _settings(stream: EventStream) -> dict[str, Any]:
    """Return the columns that a receiver sets."""
    requested = stream.events_requested
    return {
        "url": stream.url,
        "kind": ReceiverKind.SSF_PUSH if stream.url else ReceiverKind.SSF_POLL,
        "event_types": tuple(sorted(each.value for each in stream.event_types)),
        "sealed_authorization": stream.sealed_authorization,
        "events_requested": None if requested is None else " ".join(requested),
        "description": stream.description,
    }


def _stream(row: Row[Any]) -> EventStream:
    parked = row.state is ReceiverState.PARKED
    requested = row.events_requested
    return EventStream(
        stream_id=row.receiver_id,
        owner=row.owner,
        create_time=row.create_time,
        url=row.url,
        sealed_authorization=row.sealed_authorization,
        events_requested=None if requested is None else tuple(requested.split()),
        description=row.description,
        status=StreamStatus.PAUSED if parked else _STATUSES[row.state],
        # The worker has stopped the delivery, and the problem says why.
        reason=row.problem if parked else row.status_reason,
        verify_time=row.verify_time,
    )


def _is_fresh_start(before: EventStream, after: EventStream) -> bool:
    """Return whether events that wait because of failures should be tried at once."""
    enabled = after.status is StreamStatus.ENABLED
    same_delivery = replace(before, url=after.url, sealed_authorization=after.sealed_authorization)
    return enabled and (before.status is not after.status or same_delivery != before)


def _hurrying(stream_id: UUID, now: datetime) -> Any:
    late = or_(outbox.c.due_time > now, outbox.c.first_failure_time.is_not(None))
    hurrying = update(outbox).where(outbox.c.receiver_id == stream_id, _PENDING, late)
    return hurrying.values(due_time=now, attempts=0, first_failure_time=None)


def _adding(stream_id: UUID, body: str, now: datetime) -> Any:
    return insert(outbox).values(
        event_id=new_id(now),
        receiver_id=stream_id,
        event_type=EventType.TEST.value,
        payload=body,
        create_time=now,
        due_time=now,
        attempts=0,
    )
