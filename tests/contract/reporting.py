"""Stores that report to receivers, and what they wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.payload import Payloads
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.receiver import WANTABLE, EventType, Receiver
from session_authority_server.domain.token import new_id
from session_authority_server.ports.store import nowhere
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.tables import outbox
from session_authority_server.store.upkeep import SqlUpkeepStore
from tests.support.engines import START, Engine
from tests.support.usecases import UseCases


def a_receiver(name: str = "crm", types: frozenset[EventType] = WANTABLE) -> Receiver:
    return Receiver(new_id(START), name, "https://crm.example.com/events", types, START)


@dataclass
class Reporting:
    """The stores of an engine, with a reporter that knows the receivers."""

    engine: Engine
    policy: Policy
    clock: ManualClock
    wanted: frozenset[EventType] = frozenset()

    def __post_init__(self) -> None:
        database = self.engine.database
        self.reporter = Reporter(lambda: self.wanted, Payloads(self.policy, nowhere), self.clock)
        self.sessions = SqlSessionStore(database, reporter=self.reporter)
        self.upkeep = SqlUpkeepStore(database, reporter=self.reporter)
        self.outbox = SqlOutbox(database)
        self.receivers = SqlReceiverStore(database)
        self.ask = UseCases(
            self.sessions,
            self.clock,
            self.policy,
            lambda: EventType.SUPERSEDED_TOKEN_USED in self.wanted,
        )

    def stay_silent(self) -> None:
        """Use stores that know no receivers at all."""
        self.sessions = SqlSessionStore(self.engine.database)
        self.upkeep = SqlUpkeepStore(self.engine.database)
        self.ask = UseCases(self.sessions, self.clock, self.policy)

    async def add(
        self,
        name: str = "crm",
        types: frozenset[EventType] = WANTABLE,
        *,
        after: timedelta = timedelta(0),
    ) -> Receiver:
        """Add a receiver. The stores know it at once."""
        receiver = a_receiver(name, types)
        assert await self.receivers.add_receiver(receiver, self.clock.now() + after)
        self.wanted = await self.receivers.wanted()
        return receiver

    async def rows(self) -> Sequence[Any]:
        """Return the outbox in its order."""

        async def work(connection: Any) -> Sequence[Any]:
            found: Sequence[Any] = (
                await connection.execute(select(outbox).order_by(outbox.c.sequence))
            ).all()
            return found

        return await self.engine.database.read(work)

    async def events(self) -> list[tuple[str, str | None]]:
        """Return the types and users of the events in the outbox."""
        return [(row.event_type, row.user_id) for row in await self.rows()]

    async def data(self) -> list[dict[str, Any]]:
        """Return the data of the events in the outbox."""
        return [json.loads(row.payload)["data"] for row in await self.rows()]


def reporting_to(engine: Engine, **policy: Any) -> Reporting:
    return Reporting(engine, Policy(**policy), ManualClock(START))


def sequences(found: Sequence[Any]) -> list[int]:
    return [each.sequence for each in found]


WORKER, OTHER_WORKER = UUID(int=1), UUID(int=2)
