import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from session_authority_server.background.right_clock import RightClock
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import ClockWrong, StoreUnavailable
from session_authority_server.domain.receiver import Delivery, Receiver, ReceiverKind
from session_authority_server.domain.webhook import live_generations, signed_headers, signing_key
from session_authority_server.ports.outbox import Outbox
from session_authority_workers.courier import Courier, Sender
from session_authority_workers.push import Pushes
from session_authority_workers.webhook_sender import WebhookSender

if TYPE_CHECKING:
    from session_authority_server.background.event_transmitter import EventTransmitter

# How long a worker that was killed keeps its receivers, and how often a running worker renews its leases. A change of
# a receiver also takes effect with the next renewal.
LEASE_SECONDS = 6.0
RENEW_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Webhooks:
    """Signs events and sends them to one receiver."""

    def __init__(self, receiver: Receiver, event_key: bytes, sender: WebhookSender) -> None:
        self._receiver = receiver
        self._event_key = event_key
        self._sender = sender

    async def deliver(self, delivery: Delivery, now: datetime) -> None:
        """Send an event, signed with each key of the receiver that is valid now.

        Raises:
            DeliveryFailed: If the receiver did not accept it.
        """
        receiver, body = self._receiver, delivery.payload.encode()
        keys = [
            signing_key(self._event_key, receiver.receiver_id, generation)
            for generation in live_generations(receiver.generation, receiver.rotate_time, now)
        ]
        await self._sender.send(signed_headers(keys, str(delivery.event_id), now, body), body)

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()


class _Work(NamedTuple):
    """The deliveries to one receiver, as it was when they began."""

    receiver: Receiver
    task: "asyncio.Task[None]"


class Deliver:
    """Delivers events to the receivers that this worker has leased. Several workers share the receivers.

    A receiver that is slow or down delays no other receiver, because each has its own task and connections.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        open_sender: Callable[[Receiver], Sender],
        right_clock: RightClock | None = None,
    ) -> None:
        """Set up the deliveries without starting them.

        Args:
            outbox: Keeps the events.
            clock: The clock of leases, waits and signatures.
            open_sender: Returns a new sender for a receiver.
            right_clock: Pauses the deliveries while the clock may be wrong.
        """
        self._outbox = outbox
        self._clock = clock
        self._open_sender = open_sender
        self._right_clock = right_clock
        self._worker_id = uuid4()
        self._work: dict[str, _Work] = {}
        self._leased_until = 0.0
        self._paused = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the deliveries."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the deliveries, and let another worker have the receivers at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._renew()
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            await self._stop(list(self._work))
            with contextlib.suppress(StoreUnavailable):  # The leases lapse by themselves.
                await self._outbox.release(self._worker_id)

    async def _renew(self) -> None:
        """Renew the leases, and deliver to the leased receivers only."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        try:
            if self._right_clock is not None:
                await self._right_clock.require()
            leased = await self._outbox.lease(self._worker_id, self._clock.now(), LEASE_SECONDS)
        except ClockWrong as error:
            if not self._paused:
                _log.error("no events are delivered: %s", error)
            self._paused = True
            await self._stop(list(self._work))
        except StoreUnavailable:  # The store has logged the cause.
            if loop.time() > self._leased_until:
                await self._stop(list(self._work))
        except Exception:  # noqa: BLE001 - the other receivers go on
            _log.exception("leases could not be renewed; this is tried again")
        else:
            self._paused = False
            self._leased_until = asked_at + LEASE_SECONDS
            await self._work_for(leased)

    async def _work_for(self, leased: Sequence[Receiver]) -> None:
        """Deliver to these receivers and no others. Start again for a receiver whose address or key has changed."""
        wanted = {each.name: each for each in leased}
        await self._stop(
            [
                name
                for name, work in self._work.items()
                if work.task.done()
                or name not in wanted
                or _settings(work.receiver) != _settings(wanted[name])
            ]
        )
        for name, receiver in wanted.items():
            if name not in self._work:
                courier = Courier(
                    receiver,
                    self._worker_id,
                    self._outbox,
                    self._clock,
                    self._open_sender(receiver),
                )
                self._work[name] = _Work(receiver, asyncio.create_task(courier.run()))

    async def _stop(self, names: Sequence[str]) -> None:
        tasks = [self._work.pop(name).task for name in names]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("deliveries to a receiver failed; they start again", exc_info=outcome)


def _settings(receiver: Receiver) -> tuple[object, ...]:
    return (
        receiver.receiver_id,
        receiver.url,
        receiver.generation,
        receiver.rotate_time,
        receiver.sealed_authorization,
    )


def senders(
    event_key: bytes, transmitter: "EventTransmitter | None", *, may_be_private: bool
) -> Callable[[Receiver], Sender]:
    """Return a function that opens the sender of a receiver: of webhooks, or of security events."""

    def open_sender(receiver: Receiver) -> Sender:
        sender = WebhookSender(receiver.url, may_be_private=may_be_private)
        if receiver.kind is ReceiverKind.SSF_PUSH:
            return Pushes(receiver, transmitter, sender)
        return Webhooks(receiver, event_key, sender)

    return open_sender
