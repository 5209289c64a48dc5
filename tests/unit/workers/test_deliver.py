import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from session_authority_server.domain.clock import ManualClock, SystemClock
from session_authority_server.domain.errors import ClockWrong
from session_authority_server.domain.receiver import Delivery, Receiver, ReceiverState
from session_authority_server.domain.webhook import shown_key, signing_key
from session_authority_workers import courier, deliver
from session_authority_workers.deliver import Deliver, senders
from session_authority_workers.webhook_sender import (
    REQUESTS_AT_ONCE,
    DeliveryFailed,
    ReceiverGone,
)
from tests.support import receiver as behaviours
from tests.support.fake_outbox import FakeOutbox
from tests.support.receiver import Receiver as LocalReceiver
from tests.support.waiting import until

EVENT_KEY = bytes(range(32))
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)

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
        return Deliver(self.outbox, self.clock, lambda receiver: _Sender(self, receiver))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Deliver]:
        worker = self.worker()
        worker.start()
        try:
            yield worker
        finally:
            await worker.stop()


class _Sender:
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


@pytest.fixture
def world(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(courier, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(courier, "LONGEST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(deliver, "RENEW_SECONDS", 0.001)
    return World(clock)


async def test_each_event_is_delivered_once_and_in_order(world: World) -> None:
    mailer = world.outbox.add_receiver()
    written = {user: world.outbox.write(mailer, user, 150) for user in ("ann", "bob", "")}

    async with world.working():
        await until(lambda: not world.outbox.pending)

    for events in written.values():
        assert [each for each in world.attempts["mailer"] if each in events] == list(events)
    assert len(world.attempts["mailer"]) == 450
    assert world.closed == ["mailer"]


async def test_a_failed_event_delays_the_later_events_of_its_user_only(world: World) -> None:
    mailer = world.outbox.add_receiver()
    first, second = world.outbox.write(mailer, "ann", 2)
    others = [*world.outbox.write(mailer, "bob", 2), *world.outbox.write(mailer, None, 2)]
    failures = 1

    async def fails_once(delivery: Delivery) -> None:
        nonlocal failures
        if delivery.event_id == first and failures:
            failures -= 1
            raise DeliveryFailed("the receiver answered 503")

    world.outcome["mailer"] = fails_once
    async with world.working():
        await until(lambda: list(world.outbox.pending) == [first, second])
        assert set(world.attempts["mailer"]) == {first, *others}
        waited = world.outbox.due_time(first) - world.clock.now()
        assert 5 * SECOND <= waited <= 10 * SECOND
        assert world.outbox.receivers[mailer.receiver_id].problem == "the receiver answered 503"

        world.clock.advance(10 * SECOND)
        await until(lambda: not world.outbox.pending)
    assert world.attempts["mailer"][-2:] == [first, second]


async def test_the_waits_grow_to_an_hour_and_after_three_days_the_receiver_is_parked(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    mailer = world.outbox.add_receiver()
    healthy = world.outbox.add_receiver(name="healthy")
    [event] = world.outbox.write(mailer, "ann")
    world.outcome["mailer"] = refused
    waits: list[timedelta] = []

    def state() -> ReceiverState:
        return world.outbox.receivers[mailer.receiver_id].state

    began = world.clock.now()
    async with world.working():
        while state() is ReceiverState.ACTIVE:
            sent = len(waits) + 1
            await until(
                lambda sent=sent: (  # type: ignore[misc]
                    state() is ReceiverState.PARKED
                    or world.outbox.due_time(event) > world.clock.now()
                )
            )
            if state() is ReceiverState.ACTIVE:
                assert len(world.attempts["mailer"]) == sent
                waits.append(world.outbox.due_time(event) - world.clock.now())
                world.clock.advance(waits[-1])
        world.outbox.write(healthy, "ann")
        await until(lambda: world.attempts["healthy"])

    for number, wait in enumerate(waits):
        step = min(HOUR, 10 * SECOND * 2 ** min(number, 20))
        assert step / 2 <= wait <= step
    assert 3 * DAY <= world.clock.now() - began <= 3 * DAY + HOUR
    assert list(world.outbox.pending)[:1] == [event], "it waits for the operator"
    [line] = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert "mailer is parked: the receiver answered 500" in line
    assert "receivers resume mailer" in line


async def test_a_receiver_that_accepts_nothing_for_three_days_is_parked_whichever_events_fail(
    world: World,
) -> None:
    """Also if a worker starts again in this time. An event may be tried only once in days, if many others wait."""
    mailer = world.outbox.add_receiver()
    for number in range(1_000):
        world.outbox.write(mailer, f"user-{number}")
    world.outcome["mailer"] = refused

    def state() -> ReceiverState:
        return world.outbox.receivers[mailer.receiver_id].state

    async with world.working():
        await until(lambda: len(world.attempts["mailer"]) > 50)
    world.clock.advance(3 * DAY - HOUR)
    for event in world.outbox.pending[:200]:
        world.outbox.forget_failures(event)
    async with world.working():
        sent = len(world.attempts["mailer"])
        await until(lambda: len(world.attempts["mailer"]) > sent + 10)
        assert state() is ReceiverState.ACTIVE
        world.clock.advance(HOUR)
        await until(lambda: state() is ReceiverState.PARKED)


async def test_time_in_which_nothing_failed_does_not_count_towards_parking(world: World) -> None:
    mailer = world.outbox.add_receiver()
    [event] = world.outbox.write(mailer, "ann")
    world.outcome["mailer"] = refused
    world.clock.advance(10 * DAY)
    async with world.working():
        await until(lambda: world.outbox.due_time(event) > world.clock.now())
    assert world.outbox.receivers[mailer.receiver_id].state is ReceiverState.ACTIVE


async def test_a_receiver_that_wants_no_more_events_is_parked_at_once(world: World) -> None:
    mailer = world.outbox.add_receiver()
    world.outbox.write(mailer, "ann")

    async def gone(_delivery: Delivery) -> None:
        raise ReceiverGone("the receiver answered 410")

    world.outcome["mailer"] = gone
    async with world.working():
        await until(
            lambda: world.outbox.receivers[mailer.receiver_id].state is ReceiverState.PARKED
        )
    assert len(world.attempts["mailer"]) == 1


async def test_a_receiver_gets_events_of_many_users_at_once_but_not_of_too_many(
    world: World,
) -> None:
    mailer = world.outbox.add_receiver()
    for number in range(REQUESTS_AT_ONCE + 5):
        world.outbox.write(mailer, f"user-{number}", 2)
    let_go = asyncio.Event()

    async def hangs(_delivery: Delivery) -> None:
        await let_go.wait()

    world.outcome["mailer"] = hangs
    async with world.working():
        await until(lambda: world.sending["mailer"] == REQUESTS_AT_ONCE)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(world.attempts["mailer"]) == REQUESTS_AT_ONCE
        let_go.set()
        await until(lambda: not world.outbox.pending)


async def test_a_receiver_that_hangs_delays_no_other(world: World) -> None:
    slow = world.outbox.add_receiver(name="slow")
    healthy = world.outbox.add_receiver(name="healthy")
    for number in range(100):
        world.outbox.write(slow, f"user-{number}", 5)
    world.outbox.write(healthy, "ann", 500)
    world.outcome["slow"] = lambda _delivery: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    async with world.working():
        await until(lambda: len(world.attempts["healthy"]) == 500)


async def test_a_long_backlog_of_one_user_delays_no_other_user(world: World) -> None:
    mailer = world.outbox.add_receiver()
    world.outbox.write(mailer, "ann", 3 * courier.EVENTS_READ)
    [other] = world.outbox.write(mailer, "bob")

    async def hangs_for_ann(delivery: Delivery) -> None:
        if delivery.user_id == "ann":
            await asyncio.Event().wait()

    world.outcome["mailer"] = hangs_for_ann
    async with world.working():
        await until(lambda: other not in world.outbox.pending)


async def test_a_receiver_that_accepts_nothing_gets_one_event_at_a_time(world: World) -> None:
    mailer = world.outbox.add_receiver()
    for number in range(1_000):
        world.outbox.write(mailer, f"user-{number}")
    world.outcome["mailer"] = refused
    async with world.working():
        await until(lambda: len(world.attempts["mailer"]) > 100)
        read, sent = world.outbox.read, len(world.attempts["mailer"])
        await until(lambda: len(world.attempts["mailer"]) > sent + 10)
        assert world.outbox.read - read <= len(world.attempts["mailer"]) - sent + 1
        assert world.sending["mailer"] <= 1

        world.outcome["mailer"] = accepted
        world.clock.advance(10 * SECOND)
        await until(lambda: not world.outbox.pending)


async def test_events_that_were_read_long_ago_are_read_again_before_they_are_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event of a user who was erased meanwhile is not sent."""
    monkeypatch.setattr(courier, "FRESH_SECONDS", 0.0)
    mailer = world.outbox.add_receiver()
    _, second, _ = world.outbox.write(mailer, "ann", 3)

    async def erased_meanwhile(delivery: Delivery) -> None:
        if delivery.event_id == second:
            world.outbox.erase("ann")

    world.outcome["mailer"] = erased_meanwhile
    async with world.working():
        await until(lambda: second in world.attempts["mailer"])
        [after] = world.outbox.write(mailer, "bob")
        await until(lambda: after in world.attempts["mailer"])
    assert len(world.attempts["mailer"]) == 3, "not the third of the erased user"


async def test_nothing_is_lost_while_the_store_fails(world: World) -> None:
    mailer = world.outbox.add_receiver()
    world.outbox.write(mailer, "ann", 3)

    async def store_fails(_delivery: Delivery) -> None:
        world.outbox.fails = True

    world.outcome["mailer"] = store_fails
    async with world.working():
        await until(lambda: len(world.attempts["mailer"]) == 3)
        world.outcome["mailer"] = accepted
        world.outbox.fails = False
        await until(lambda: not world.outbox.pending)
    assert len(world.attempts["mailer"]) == 3, (
        "what was delivered is recorded later, not sent again"
    )


async def test_a_worker_without_the_store_stops_when_its_leases_have_lapsed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "LEASE_SECONDS", 0.01)
    world.outbox.add_receiver()
    async with world.working():
        await until(lambda: world.outbox.leases)
        world.outbox.fails = True
        await until(lambda: world.closed)


async def test_two_workers_share_the_receivers_and_one_takes_over_from_the_other(
    world: World,
) -> None:
    first, second = world.outbox.add_receiver(name="a"), world.outbox.add_receiver(name="b")
    async with world.working():
        await until(lambda: len(world.outbox.leases) == 2)
        holder = world.outbox.leases[first.receiver_id][0]
        async with world.working():
            world.outbox.write(first, "ann", 5)
            await until(lambda: not world.outbox.pending)
            assert world.outbox.leases[first.receiver_id][0] == holder
        assert world.outbox.leases[first.receiver_id][0] == holder
    assert not world.outbox.leases, "a stopped worker gives its leases back"
    async with world.working():
        world.outbox.write(second, "ann", 5)
        await until(lambda: not world.outbox.pending)


async def test_another_worker_takes_over_once_the_lease_of_a_killed_one_has_lapsed(
    world: World,
) -> None:
    mailer = world.outbox.add_receiver()
    world.outbox.leases[mailer.receiver_id] = (
        UUID(int=1),
        world.clock.now() + timedelta(seconds=deliver.LEASE_SECONDS),
    )
    world.outbox.write(mailer, "ann", 5)
    async with world.working():
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not world.attempts
        world.clock.advance(timedelta(seconds=deliver.LEASE_SECONDS))
        await until(lambda: not world.outbox.pending)


async def test_a_paused_receiver_gets_nothing_more_and_a_changed_one_is_opened_again(
    world: World,
) -> None:
    mailer = world.outbox.add_receiver()
    async with world.working():
        world.outbox.write(mailer, "ann")
        await until(lambda: not world.outbox.pending)
        world.outbox.change(mailer.receiver_id, generation=2, rotate_time=world.clock.now())
        await until(lambda: len(world.closed) == 1)
        world.outbox.write(mailer, "ann")
        await until(lambda: not world.outbox.pending)
        world.outbox.change(mailer.receiver_id, state=ReceiverState.PAUSED)
        await until(lambda: len(world.closed) == 2)
        [waiting] = world.outbox.write(mailer, "ann")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert list(world.outbox.pending) == [waiting]


async def test_a_failure_inside_the_worker_is_logged_and_the_deliveries_start_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    mailer = world.outbox.add_receiver()
    world.outbox.write(mailer, "ann")

    async def surprises(_delivery: Delivery) -> None:
        world.outcome["mailer"] = accepted
        raise RuntimeError("surprise")

    world.outcome["mailer"] = surprises
    async with world.working():
        await until(lambda: not world.outbox.pending)
    assert "deliveries to a receiver failed; they start again" in caplog.text


async def test_nothing_is_delivered_while_the_clock_may_be_wrong(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong:
        is_wrong = False

        async def require(self) -> None:
            if self.is_wrong:
                raise ClockWrong("the clock was stepped")

    right_clock = Wrong()
    world.outbox.add_receiver()
    worker = Deliver(
        world.outbox,
        world.clock,
        lambda receiver: _Sender(world, receiver),
        right_clock,  # type: ignore[arg-type]
    )
    worker.start()
    await until(lambda: world.outbox.leases)
    right_clock.is_wrong = True
    await until(lambda: world.closed)
    await worker.stop()
    assert caplog.text.count("no events are delivered: the clock was stepped") == 1


async def test_the_official_library_accepts_what_a_receiver_gets_also_during_a_rotation(
    world: World,
) -> None:
    clock = SystemClock()
    async with LocalReceiver().listening() as local:
        mailer = world.outbox.add_receiver(local.url)
        world.outbox.change(mailer.receiver_id, generation=2, rotate_time=clock.now() - HOUR)
        [event] = world.outbox.write(mailer, "ann")
        worker = Deliver(world.outbox, clock, senders(EVENT_KEY, None, may_be_private=False))
        worker.start()
        await until(lambda: not world.outbox.pending)
        await worker.stop()

    [received] = local.received
    assert received.headers["webhook-id"] == str(event)
    for generation in (1, 2):
        key = shown_key(signing_key(EVENT_KEY, mailer.receiver_id, generation))
        assert Webhook(key).verify(received.body, dict(received.headers))["type"] == "test"


async def test_no_hostile_receiver_delays_a_healthy_one_and_no_key_is_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("session_authority_workers.webhook_sender.REQUEST_SECONDS", 0.5)
    hostile = {
        "hangs": behaviours.hang,
        "drips": behaviours.drip,
        "fails": behaviours.answer("500 Internal Server Error"),
        "redirects": behaviours.answer("307 Here\r\nlocation: http://169.254.169.254/"),
        "floods": behaviours.flood(b"HTTP/1.1 200 OK\r\nx: ", b"x" * 65536),
        "speaks in riddles": behaviours.garbage,
    }
    async with LocalReceiver().listening() as local:
        healthy = world.outbox.add_receiver(local.url, "healthy")
        locals_ = [LocalReceiver(behave=each) for each in hostile.values()]
        async with contextlib.AsyncExitStack() as listening:
            for each in locals_:
                await listening.enter_async_context(each.listening())
            receivers = [
                world.outbox.add_receiver(each.url, name)
                for name, each in zip(hostile, locals_, strict=True)
            ]
            for number in range(40):
                for receiver in receivers:
                    world.outbox.write(receiver, f"user-{number}")
            worker = Deliver(
                world.outbox, world.clock, senders(EVENT_KEY, None, may_be_private=False)
            )
            worker.start()
            await until(lambda: all(each.received for each in locals_))
            healthy_events = world.outbox.write(healthy, "ann", 200)
            await until(lambda: not set(world.outbox.pending) & set(healthy_events))
            await until(
                lambda: all(world.outbox.receivers[each.receiver_id].problem for each in receivers)
            )
            await worker.stop()
    assert len(local.received) == 200
    for receiver in world.outbox.receivers.values():
        key = signing_key(EVENT_KEY, receiver.receiver_id, 1)
        for secret in (key.hex(), repr(key), shown_key(key), shown_key(key)[6:]):
            assert secret not in caplog.text
