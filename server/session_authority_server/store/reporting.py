"""Writing events for receivers, in the transaction that makes them true."""

from collections.abc import Callable, Iterable, Sequence, Set

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Text,
    any_,
    bindparam,
    delete,
    insert,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.payload import Payloads, Reportable
from session_authority_server.domain.receiver import EventType, ReceiverState
from session_authority_server.domain.token import new_id
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.liveness import is_swept
from session_authority_server.store.tables import outbox, receivers, sessions, users


def _wants(event_type: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a receiver's column `event_types`, words separated by spaces, contains a type."""
    space = literal(" ", Text)
    words = space + type_coerce(receivers.c.event_types, Text) + space
    return words.contains(space + event_type + space)


_EVENT_TYPE = bindparam("event_type", type_=Text)
_NOW = bindparam("now", type_=outbox.c.create_time.type)
_COLUMNS = {
    "event_id": bindparam("event_id", type_=outbox.c.event_id.type),
    "receiver_id": receivers.c.receiver_id,
    "user_id": bindparam("user_id", type_=Text),
    "event_type": _EVENT_TYPE,
    "payload": bindparam("payload", type_=Text),
    "create_time": _NOW,
    "due_time": _NOW,
    "attempts": literal(0),
}
# Built once. Reading the receivers in the INSERT costs no statement of its own.
_WRITE = insert(outbox).from_select(
    list(_COLUMNS),
    select(*_COLUMNS.values()).where(
        receivers.c.state != ReceiverState.REMOVED,
        receivers.c.state != ReceiverState.DISABLED,
        receivers.c.start_time <= _NOW,
        _wants(_EVENT_TYPE),
    ),
)
_LOCK_USERS = (
    select(users.c.user_id)
    .where(users.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Text))))
    .order_by(users.c.user_id)
    .with_for_update(key_share=True)
)


class Reporter:
    """Writes events into the outbox."""

    def __init__(
        self, wanted: Callable[[], Set[EventType]], payloads: Payloads, clock: Clock
    ) -> None:
        """Report to the receivers.

        Args:
            wanted: Returns the types that any receiver wants, and EventType.TEST if there may be any receiver. It may
                learn of a new receiver as late as the receiver's `start_time`.
            payloads: Writes the bodies.
            clock: The clock.
        """
        self.wanted = wanted
        self._payloads = payloads
        self._clock = clock

    async def write(
        self, connection: AsyncConnection, events: Iterable[Reportable], wanted: Set[EventType]
    ) -> None:
        """Write events of the wanted types, in order.

        The transaction has locked the users of the events. So their events get sequences in the order of the commits.
        """
        now = self._clock.now()
        found = [
            {
                "event_id": new_id(now),
                "user_id": outgoing.user_id,
                "event_type": outgoing.event_type.value,
                "payload": outgoing.payload,
                "now": now,
            }
            for event in events
            for outgoing in self._payloads.of(event, now)
            if outgoing.event_type in wanted
        ]
        if found:
            await connection.execute(_WRITE, found)

    async def write_unswept(
        self,
        connection: AsyncConnection,
        dialect: Dialect,
        ended: Sequence[SessionEnded],
        wanted: Set[EventType],
    ) -> None:
        """Write the endings of sessions that no sweep covers. The event of a sweep is for all its sessions."""
        if not ended or EventType.SESSION_ENDED not in wanted:
            return
        unswept = select(sessions.c.session_id).where(
            dialect.by_ids(sessions.c.session_id), ~is_swept()
        )
        ids = {"ids": [event.session_id for event in ended]}
        found = set((await connection.execute(unswept, ids)).scalars())
        await self.write(
            connection, [event for event in ended if event.session_id in found], wanted
        )


async def lock_users(connection: AsyncConnection, dialect: Dialect, user_ids: Select[str]) -> None:
    """Lock users in the order of their ids, before their sessions. All who lock several users use this order."""
    if not dialect.takes_arrays:
        return  # SQLite runs one writer at a time.
    # In its own statement, because the planner could otherwise read the whole table in the order of its key.
    found = sorted(set((await connection.execute(user_ids)).scalars()))
    await connection.execute(_LOCK_USERS, {"user_ids": found})


async def delete_events_of(connection: AsyncConnection, user_id: str) -> None:
    """Delete all events of a user, the delivered ones too."""
    await connection.execute(delete(outbox).where(outbox.c.user_id == user_id))
