import asyncio
import contextlib
import logging
from datetime import timedelta
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import ClockWrong
from session_authority_server.domain.receiver import Delivery, ReceiverState
from session_authority_server.domain.webhook import shown_key, signing_key
from session_authority_workers import deliver
from session_authority_workers.deliver import Deliver, senders
from tests.support import receiver as behaviours
from tests.support.deliveries import Sending, World, accepted
from tests.support.receiver import Receiver as LocalReceiver
from tests.support.waiting import until

EVENT_KEY = bytes(range(32))
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


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
        lambda receiver: Sending(world, receiver),
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
