import sys
import threading
from collections import OrderedDict
from typing import Any

from session_authority.near_cache.core import Due
from session_authority.near_cache.entries import Entry, key_of
from tests.unit.client.near_cache.play import Play


def test_the_least_recently_used_sessions_are_evicted() -> None:
    play = Play(max_sessions=3)
    for name in "abc":
        play.keep(name)
    play.look("a")
    play.keep("d")
    assert play.hits("a", "b", "c", "d") == {"a", "c", "d"}
    statistics = play.core.statistics(play.now)
    assert (statistics.size, statistics.displacements, statistics.evictions) == (3, 1, 0)


def test_a_session_in_constant_use_stays_although_some_uses_are_not_noted() -> None:
    play = Play(max_sessions=64)
    names = [str(number) for number in range(64)]
    for name in names:
        play.keep(name)
    play.look("0")
    for number in range(64, 200):
        for _ in range(10):
            play.look("0")
            play.wait(0.1)
        play.keep(str(number))
    assert play.hits("0")


def test_the_order_of_use_spans_hot_and_cold_entries() -> None:
    play = Play(max_sessions=200)
    names = [str(number) for number in range(200)]
    for name in names:
        play.keep(name, ip_address="192.0.2.7")
    assert len(play.core._entries.hot) == 64
    for name in names[:100]:
        assert play.look(name)
    play.keep("x")
    assert play.hits(*names) == {*names} - {
        "100",
        "101",
        "102",
    }  # the cache evicts one in 64 entries at once
    assert len(play.core._entries.hot) == 64


def test_a_cold_entry_is_restored_unchanged() -> None:
    play = Play(max_sessions=200)
    play.keep("0", ip_address="192.0.2.7", attributes={"tenant": "t-1"}, actor_id="eve")
    found = play.look("0")
    for number in range(1, 100):
        play.keep(str(number))
    assert key_of("t-0") not in play.core._entries.hot
    assert play.look("0") == found
    play.wait(60)
    play.look("0")
    assert play.due == [Due("t-0", "192.0.2.7")]


def test_cold_sessions_are_evicted_like_hot_ones() -> None:
    play = Play(max_sessions=200)
    names = [str(number) for number in range(100)]
    for name in names:
        play.keep(name, user_id=f"u-{int(name) % 2}")
    play.evict("0")
    play.evict(users=("u-1",))
    assert play.hits(*names) == {name for name in names[1:] if int(name) % 2 == 0}


def test_an_eviction_by_another_thread_during_a_hit_is_not_an_error(play: Play) -> None:
    class Meanwhile(OrderedDict[bytes, Entry]):
        def get(self, key: bytes, default: Any = None) -> Any:
            found = super().get(key, default)
            self.clear()
            return found

    play.keep()
    play.core._hot = Meanwhile(play.core._entries.hot)
    assert play.look()  # the hit was found before the eviction


def test_threads_never_hit_a_session_that_was_evicted_before_they_asked() -> None:
    play = Play(max_sessions=500)
    names = [str(number) for number in range(400)]
    gone: set[str] = set()
    wrong: list[str] = []
    over = threading.Event()

    def hammer(seed: int) -> None:
        turn = seed
        while not over.is_set():
            turn = (turn * 1103515245 + 12345) % 2**31
            name = names[turn % len(names)]
            was_gone = name in gone
            if play.look(name) and was_gone:
                wrong.append(name)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for name in names:
        play.keep(name, user_id=f"u-{name}")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for number, name in enumerate(names[:300]):
            flight = play.sent()
            if number % 2:
                play.evict(name)
            else:
                play.evict(users=(f"u-{name}",))
            gone.add(name)
            assert not play.answered(flight, name, user_id=f"u-{name}")
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert wrong == []
    assert play.hits(*names) == {*names[300:]}
