import asyncio
import contextlib
import logging
import random
from collections.abc import Hashable, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.receiver import Delivery, Receiver
from session_authority_server.observability.metrics import EVENT_DELAY, EVENT_DELIVERIES
from session_authority_server.ports.outbox import Outbox
from session_authority_workers.webhook_sender import (
    REQUESTS_AT_ONCE,
    DeliveryFailed,
    ReceiverGone,
)

# The first and the longest wait before a failed event is sent again. Each wait is half to all of its step.
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(hours=1)
# How long an event may fail until its receiver is parked.
PARK_AFTER = timedelta(days=3)
# After so many failures without a success, the receiver gets one event at a time, with pauses up to the longest one.
TROUBLE_FAILURES = 8
LONGEST_PAUSE_SECONDS = 60.0
# How many events are read at once, and for how long they are sent without being read again. An event of a user who is
# erased meanwhile must not be sent long after that.
EVENTS_READ = 100
FRESH_SECONDS = 5.0
# How often a receiver without a backlog is looked at.
LOOK_SECONDS = 0.5
# With a backlog, the deliveries of this time are recorded together.
_GATHER_SECONDS = 0.01

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """Sends events to one receiver."""

    async def deliver(self, delivery: Delivery, now: datetime) -> None:
        """Send an event once. Raise DeliveryFailed if the receiver did not accept it."""

    async def close(self) -> None:
        """Close the connections."""


class Courier:
    """Delivers the events of one receiver: in order for each user, and for several users at the same time.

    An event is recorded as delivered after the receiver has accepted it. So a crash may repeat events, but loses none.
    """

    def __init__(
        self, receiver: Receiver, worker_id: UUID, outbox: Outbox, clock: Clock, sender: Sender
    ) -> None:
        """Set up the deliveries to a receiver that this worker has leased."""
        self._receiver = receiver
        self._worker_id = worker_id
        self._outbox = outbox
        self._clock = clock
        self._sender = sender
        # The users whose events are being sent, or are not recorded yet.
        self._lanes: dict[Hashable, asyncio.Task[None]] = {}
        self._lane_ended = asyncio.Event()
        self._delivered: list[int] = []
        self._failures = 0
        self._failed_probes = 0
        self._failing_since = receiver.failing_since
        self._parked = False

    async def run(self) -> None:
        """Deliver events until cancelled, or until the receiver is parked."""
        try:
            while not self._parked:
                try:
                    await self._round()
                except StoreUnavailable:  # The store has logged the cause.
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        for lane in self._lanes.values():
            lane.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._settle()
        await self._sender.close()

    async def _round(self) -> None:
        await self._settle()
        if self._is_in_trouble:
            await self._probe()
        elif await self._start_lanes():
            await self._lane_ended.wait()
            await asyncio.sleep(_GATHER_SECONDS)
        else:
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def _is_in_trouble(self) -> bool:
        return self._failures >= TROUBLE_FAILURES

    async def _settle(self) -> None:
        """Record the delivered events. Then their users may have a lane again."""
        ended = [key for key, lane in self._lanes.items() if lane.done()]
        self._lane_ended.clear()
        delivered = tuple(self._delivered)
        if delivered:
            await self._outbox.settle(
                self._receiver.receiver_id, self._worker_id, delivered, self._clock.now()
            )
            del self._delivered[: len(delivered)]
        for key in ended:
            self._lanes.pop(key).result()

    async def _start_lanes(self) -> bool:
        """Send due events of users without a lane. Return whether there may be more due events than lanes."""
        while len(self._lanes) < REQUESTS_AT_ONCE:
            busy = [key for key in self._lanes if isinstance(key, str)]
            found = await self._outbox.due(
                self._receiver.receiver_id, self._clock.now(), EVENTS_READ, busy
            )
            started = False
            for key, deliveries in _by_user(found):
                if len(self._lanes) == REQUESTS_AT_ONCE:
                    return True
                if key not in self._lanes:
                    self._lanes[key] = asyncio.create_task(self._send_in_order(deliveries))
                    started = True
            if not started or len(found) < EVENTS_READ:
                return False
        return True

    async def _send_in_order(self, deliveries: Sequence[Delivery]) -> None:
        """Send events of one user until one fails."""
        loop = asyncio.get_running_loop()
        stale_at = loop.time() + FRESH_SECONDS
        try:
            for delivery in deliveries:
                if not await self._send(delivery) or self._is_in_trouble or loop.time() > stale_at:
                    break
        except StoreUnavailable:  # The event is still due, and will be read again.
            pass
        finally:
            self._lane_ended.set()

    async def _probe(self) -> None:
        """Send one event after a pause, because the receiver accepts nothing at present."""
        if self._lanes:
            await self._lane_ended.wait()
            return
        await asyncio.sleep(_jittered(min(LONGEST_PAUSE_SECONDS, 2.0**self._failed_probes)))
        for delivery in await self._outbox.due(
            self._receiver.receiver_id, self._clock.now(), limit=1
        ):
            if not await self._send(delivery):
                self._failed_probes = min(self._failed_probes + 1, 32)

    async def _send(self, delivery: Delivery) -> bool:
        """Send an event, and return whether the receiver accepted it. Postpone the event otherwise.

        Raises:
            StoreUnavailable: If the event could not be postponed.
        """
        name = self._receiver.name
        try:
            await self._sender.deliver(delivery, self._clock.now())
        except DeliveryFailed as error:
            self._failures += 1
            EVENT_DELIVERIES.inc(name, "failed")
            _log.warning("%s did not accept an event: %s", name, error)
            await self._record_failure(delivery, error)
            return False
        self._failures = self._failed_probes = 0
        self._failing_since = None
        self._delivered.append(delivery.sequence)
        EVENT_DELIVERIES.inc(name, "delivered")
        delay = self._clock.now() - delivery.create_time
        EVENT_DELAY.observe((), delay.total_seconds())
        return True

    async def _record_failure(self, delivery: Delivery, error: DeliveryFailed) -> None:
        now, receiver_id = self._clock.now(), self._receiver.receiver_id
        # The receiver is parked if one event, or the receiver itself, has failed for PARK_AFTER. A receiver that accepts
        # nothing gets another event at each attempt, so no single event fails that long.
        self._failing_since = self._failing_since or now
        failing_since = min(self._failing_since, delivery.first_failure_time or now)
        if not isinstance(error, ReceiverGone) and now - failing_since < PARK_AFTER:
            due_time = now + _wait(delivery.attempts)
            await self._outbox.postpone(
                receiver_id, self._worker_id, delivery.sequence, due_time, str(error), now
            )
            return
        self._parked = True
        if await self._outbox.park(receiver_id, self._worker_id, str(error), now):
            _log.error(
                "the receiver %s is parked: %s; once it works again, run: session-authority receivers resume %s",
                self._receiver.name,
                error,
                self._receiver.name,
            )


def _by_user(found: Sequence[Delivery]) -> Sequence[tuple[Hashable, Sequence[Delivery]]]:
    """Return the events of each user, and each test event by itself."""
    lanes: dict[Hashable, list[Delivery]] = {}
    for each in found:
        key: Hashable = each.sequence if each.user_id is None else each.user_id
        lanes.setdefault(key, []).append(each)
    return list(lanes.items())


def _wait(attempts: int) -> timedelta:
    """Return the wait before the next attempt, after a number of failed attempts."""
    return _jittered(1) * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempts, 32))


def _jittered(longest: float) -> float:
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret
