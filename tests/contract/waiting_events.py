"""Events that wait in an outbox, and what a worker does with them."""

from typing import Any

from sqlalchemy import insert

from session_authority_server.domain.receiver import EventType, Receiver
from session_authority_server.domain.token import new_id
from session_authority_server.store.tables import outbox
from tests.contract.reporting import (
    WORKER,
    Reporting,
    sequences,
)
from tests.support.engines import MINUTE, START

LATER = START + MINUTE


async def waiting(
    reporting: Reporting, receiver: Receiver, *users: str | None, **columns: Any
) -> list[int]:
    """Add an event for each user, and return their sequences."""
    before = len(await reporting.rows())
    values = {
        "receiver_id": receiver.receiver_id,
        "event_type": EventType.SESSION_ENDED.value,
        "payload": "{}",
        "create_time": START,
        "due_time": START,
        "attempts": 0,
    }
    rows = [
        {**values, "event_id": new_id(START), "user_id": user_id, **columns} for user_id in users
    ]
    await reporting.engine.execute(*(insert(outbox).values(row) for row in rows))
    return sequences((await reporting.rows())[before:])


async def due(
    reporting: Reporting, receiver: Receiver, now: Any = START, **options: Any
) -> list[int]:
    return sequences(await reporting.outbox.due(receiver.receiver_id, now, 100, **options))


async def leased(reporting: Reporting) -> Receiver:
    """Add a receiver whose lease the worker has."""
    await reporting.add()
    [receiver] = await reporting.outbox.lease(WORKER, START, 60)
    return receiver


async def postpone(
    reporting: Reporting, receiver: Receiver, sequence: int, until: Any = LATER, **given: Any
) -> None:
    await reporting.outbox.postpone(
        receiver.receiver_id, given.get("worker", WORKER), sequence, until, "answered 500", START
    )


async def the_receiver(reporting: Reporting) -> Receiver:
    [receiver] = await reporting.receivers.read_receivers()
    return receiver


# Leases
