import asyncio
import logging
from datetime import timedelta

import pytest

from session_authority_server.domain.receiver import Delivery, ReceiverState
from session_authority_workers import courier
from session_authority_workers.webhook_sender import (
    REQUESTS_AT_ONCE,
    DeliveryFailed,
    ReceiverGone,
)
from tests.support.deliveries import World, accepted, refused
from tests.support.waiting import until

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


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
