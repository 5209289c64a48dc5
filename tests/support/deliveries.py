"""Workers that deliver events of a fake outbox to receivers that behave as a test says."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.receiver import Delivery, Receiver
from session_authority_workers.deliver import Deliver
from session_authority_workers.webhook_sender import (
    DeliveryFailed,
)
from tests.support.fake_outbox import FakeOutbox

Outcome = Callable[[Delivery], Awaitable[None]]


async def accepted(_delivery: Delivery) -> None:
    pass


async def refused(_delivery: Delivery) -> None:
    raise DeliveryFailed("the receiver answered 500")


class World:
    """Some workers, and receivers that behave as the test says.

    Attributes:
        outbox: The events.
        clock: The clock of the workers.
        outcome: The outcome of a delivery, by the name of the receiver.
        attempts: The ids of the events that were sent to each receiver, in order.
        sending: How many deliveries to each receiver are in flight.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.outbox = FakeOutbox()
        self.clock = clock
        self.outcome: dict[str, Outcome] = defaultdict(lambda: accepted)
        self.attempts: dict[str, list[UUID]] = defaultdict(list)
        self.sending: dict[str, int] = defaultdict(int)
        self.closed: list[str] = []

    def worker(self) -> Deliver:
        return Deliver(self.outbox, self.clock, lambda receiver: Sending(self, receiver))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Deliver]:
        worker = self.worker()
        worker.start()
        try:
            yield worker
        finally:
            await worker.stop()


class Sending:
    def __init__(self, world: World, receiver: Receiver) -> None:
        self._world = world
        self._name = receiver.name

    async def deliver(self, delivery: Delivery, now: datetime) -> None:
        world = self._world
        assert now == world.clock.now()
        world.attempts[self._name].append(delivery.event_id)
        world.sending[self._name] += 1
        try:
            await world.outcome[self._name](delivery)
        finally:
            world.sending[self._name] -= 1

    async def close(self) -> None:
        self._world.closed.append(self._name)
