import math
import sys
import time

import pytest

from session_authority.near_cache import lease as lease_module
from tests.unit.client.near_cache.play import LEASE, Play


def test_hits_end_with_the_lease_which_starts_when_the_ping_was_sent(play: Play) -> None:
    play.keep()
    ping_id = play.core.ping_sent(play.generation, play.now)
    play.wait(1, renewing=False)
    assert ping_id is not None
    play.core.pong_received(
        play.generation, ping_id, LEASE
    )  # the pong came a second later, which does not extend the lease
    play.wait(LEASE - 1 - 0.001, renewing=False)
    assert play.hits("a")
    play.wait(0.001, renewing=False)
    assert not play.hits("a")


def test_a_pong_renews_the_lease_from_its_own_ping(play: Play) -> None:
    play.keep()
    first = play.core.ping_sent(play.generation, play.now)
    play.wait(1.5, renewing=False)
    play.core.ping_sent(play.generation, play.now)
    assert first is not None
    play.core.pong_received(play.generation, first, LEASE)
    play.wait(0.6, renewing=False)
    assert not play.hits("a")


def test_without_a_clock_that_counts_suspend_there_are_no_hits() -> None:
    play = Play(connected=False)
    play.now = math.inf
    play.connect()
    play.keep()
    assert not play.hits("a")
    assert not play.core.is_stale(play.generation, play.now)


def test_a_lapsed_lease_can_be_renewed_on_the_same_stream(play: Play) -> None:
    play.keep()
    play.wait(LEASE + 10, renewing=False)
    assert not play.hits("a")
    play.renew()
    assert play.hits("a")


def test_the_latest_pong_sets_the_length_of_the_lease(play: Play) -> None:
    play.keep()
    play.renew(lease=1)
    play.wait(0.999, renewing=False)
    assert play.hits("a")
    play.wait(0.001, renewing=False)
    assert not play.hits("a")


def test_a_pong_answers_all_earlier_pings_once(play: Play) -> None:
    play.keep()
    first = play.core.ping_sent(play.generation, play.now)
    play.wait(1, renewing=False)
    second = play.core.ping_sent(play.generation, play.now)
    assert first is not None
    assert second is not None
    play.core.pong_received(play.generation, second, LEASE)
    play.wait(1.5, renewing=False)
    for ping_id in (first, second, 999):
        play.core.pong_received(play.generation, ping_id, 3600)
    assert play.hits("a")
    play.wait(0.5, renewing=False)
    assert not play.hits("a")


@pytest.mark.parametrize("lease", [0, -1, float("inf"), float("nan")])
def test_an_invalid_lease_renews_nothing(lease: float) -> None:
    play = Play(connected=False)
    play.generation = play.core.stream_opened()
    play.renew(lease)
    assert not play.keep()


def test_the_clock_of_the_lease_may_jump_while_the_machine_is_suspended(play: Play) -> None:
    play.keep()
    play.wait(8 * 3600, renewing=False)
    assert not play.hits("a")


def test_pings_are_half_of_the_lease_apart_with_jitter(play: Play) -> None:
    play.renew(lease=8)
    assert play.core.pause_seconds(0) == 4
    assert play.core.pause_seconds(1) == 3


def test_a_stream_that_leaves_pings_unanswered_is_abandoned(play: Play) -> None:
    play.core.ping_sent(play.generation, play.now)
    assert not play.core.is_stale(play.generation, play.now + 5)
    assert play.core.is_stale(play.generation, play.now + 5.1)
    play.renew()
    assert not play.core.is_stale(play.generation, play.now + 5.1)
    play.core.stream_opened()
    assert play.core.is_stale(play.generation, play.now)


def test_nothing_is_cached_without_a_stream_or_before_its_first_pong() -> None:
    play = Play(connected=False)
    assert not play.keep()
    play.generation = play.core.stream_opened()
    assert not play.keep()
    play.renew()
    assert not play.hits("a")
    assert play.keep()


def test_an_answer_is_cached_only_if_its_call_was_sent_after_the_first_pong() -> None:
    play = Play(connected=False)
    play.generation = play.core.stream_opened()
    flight = play.sent()
    play.renew()
    assert not play.answered(flight)


def test_the_loss_of_the_stream_clears_the_cache(play: Play) -> None:
    play.keep()
    assert play.core.stream_lost(play.generation, "gone")
    assert not play.hits("a")
    assert play.core.statistics(play.now).problem == "gone"
    play.connect()
    assert not play.hits("a")
    assert play.core.statistics(play.now).problem is None


def test_a_new_stream_clears_the_cache_even_if_the_loss_was_not_reported(play: Play) -> None:
    play.keep()
    play.connect()
    assert not play.hits("a")


def test_an_answer_of_an_earlier_generation_is_not_cached(play: Play) -> None:
    flight = play.sent()
    play.connect()
    assert not play.answered(flight)
    flight = play.sent()
    play.core.stream_lost(play.generation)
    assert not play.answered(flight)


def test_a_replaced_stream_renews_nothing(play: Play) -> None:
    old = play.generation
    ping_id = play.core.ping_sent(old, play.now)
    play.connect()
    play.keep()
    assert ping_id is not None
    play.core.pong_received(old, ping_id, 3600)
    play.core.pong_received(play.generation, ping_id, 3600)
    assert play.core.ping_sent(old, play.now) is None
    assert not play.core.stream_lost(old)
    assert play.hits("a")
    play.wait(LEASE, renewing=False)
    assert not play.hits("a")


def test_the_clock_of_the_lease_advances() -> None:
    before = lease_module.lease_clock()
    time.sleep(0.002)
    assert 0.001 < lease_module.lease_clock() - before < 60


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_a_clock_that_counts_suspend_is_chosen(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    found = lease_module._clock_counting_suspend()
    assert found is not None
    assert found() == pytest.approx(time.monotonic(), abs=60)


def test_without_a_clock_that_counts_suspend_no_lease_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(sys, "platform", "plan9")
    assert lease_module._clock_counting_suspend() is None
    assert lease_module._no_lease_clock() == math.inf
