import asyncio
import threading
import time

import pytest

from session_authority_server.rpc import even_time as module
from session_authority_server.rpc.even_time import PERIOD_SECONDS, even_time


class Alarm:
    """Notes what it is set to."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def at(self, moment: float) -> None:
        self.moments.append(moment)


@pytest.mark.parametrize(
    ("took_periods", "answered_after"),
    [(0, 1), (0.2, 1), (0.99, 1), (1.01, 2), (7.5, 8)],
)
def test_an_answer_waits_for_a_whole_number_of_periods(
    monkeypatch: pytest.MonkeyPatch, took_periods: float, answered_after: int
) -> None:
    alarm, now = Alarm(), [1_000.0]
    monkeypatch.setattr(module, "_alarm", alarm)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    end_of_period = even_time()
    now[0] += took_periods * PERIOD_SECONDS
    end_of_period()
    expected = 1_000 + answered_after * PERIOD_SECONDS
    assert alarm.moments == [pytest.approx(expected, abs=1e-9)]


async def test_nobody_is_woken_before_the_moment_and_the_first_one_first() -> None:
    alarm, now = module._Alarm(), time.monotonic()
    woken: list[tuple[float, float]] = []

    async def wait(seconds: float) -> None:
        await alarm.at(now + seconds)
        woken.append((seconds, time.monotonic() - now))

    await asyncio.gather(*map(wait, [0.3, 0.2, 0.1, -1.0, 0.2]))
    assert [seconds for seconds, _ in woken] == [-1.0, 0.1, 0.2, 0.2, 0.3]
    assert all(seconds <= after for seconds, after in woken)


async def test_a_nearer_moment_does_not_wait_for_a_farther_one_that_was_set_before() -> None:
    alarm = module._Alarm()
    far = alarm.at(time.monotonic() + 3)
    await asyncio.sleep(0.1)  # by now that one is waited for
    await alarm.at(time.monotonic() + 0.1)
    assert not far.done()
    await far


async def test_a_moment_is_met_to_less_than_a_millisecond() -> None:
    alarm, give_up = module._Alarm(), time.monotonic() + 10
    late = 1.0
    while late >= 0.001:  # a busy machine may be late at times
        assert time.monotonic() < give_up
        moment = time.monotonic() + PERIOD_SECONDS
        await alarm.at(moment)
        late = time.monotonic() - moment
        assert late >= 0


async def test_who_has_gone_away_is_not_answered() -> None:
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()
    module._reach(gone)
    assert gone.cancelled()


def test_a_loop_that_was_closed_keeps_no_other_waiting() -> None:
    alarm = module._Alarm()

    async def leave() -> None:
        alarm.at(time.monotonic() + 0.05)

    async def wait() -> None:
        await alarm.at(time.monotonic() + 0.1)

    asyncio.run(leave())
    asyncio.run(asyncio.wait_for(wait(), 60))


async def test_its_thread_ends_when_nobody_waits_and_another_begins_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    before, alarm = {*threading.enumerate()}, module._Alarm()
    for _ in range(2):
        end = alarm.at(time.monotonic() + 0.3)
        begun = {*threading.enumerate()} - before
        [thread] = [each for each in begun if each.name == "even-time"]
        await asyncio.sleep(0.2)
        assert thread.is_alive()  # it stays while anybody's moment is to come
        await end
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


async def test_who_comes_just_as_its_thread_would_end_is_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    alarm = module._Alarm()
    await alarm.at(time.monotonic())
    with alarm._changed:  # as its wait is over, before it is told so
        await asyncio.sleep(0.2)
        end = alarm.at(time.monotonic())
    await asyncio.wait_for(end, 60)


async def test_a_thread_that_could_not_start_keeps_no_later_caller_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    alarm = module._Alarm()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            alarm.at(time.monotonic())
    await asyncio.wait_for(alarm.at(time.monotonic()), 60)
