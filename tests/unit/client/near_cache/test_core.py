import math
import pickle
import sys
import threading
from collections import OrderedDict
from datetime import timedelta
from typing import Any

import pytest

from session_authority import (
    NearCache,
    Rejection,
    RejectionReason,
    Session,
    SessionToken,
)
from session_authority.near_cache.activity import CLOCK_SKEW_SECONDS
from session_authority.near_cache.core import Due
from session_authority.near_cache.entries import Entry, key_of
from session_authority.near_cache.flights import Flights
from tests.unit.client.near_cache.play import LEASE, Play


@pytest.fixture
def play() -> Play:
    return Play()


# The lease.


def test_a_kept_answer_is_given_from_memory(play: Play) -> None:
    assert play.look() is None
    play.keep(attributes={"tenant": "t-1"})
    found = play.look()
    assert isinstance(found, Session)
    assert found.session_id == "s-a"
    assert found.attributes == {"tenant": "t-1"}


def test_a_hit_ends_with_the_lease_which_counts_from_when_the_ping_was_sent(play: Play) -> None:
    play.keep()
    ping_id = play.core.ping_sent(play.generation, play.now)
    play.wait(1, renewing=False)
    assert ping_id is not None
    play.core.pong_received(play.generation, ping_id, LEASE)  # a second later: nothing gained
    play.wait(LEASE - 1 - 0.001, renewing=False)
    assert play.hits("a")
    play.wait(0.001, renewing=False)
    assert not play.hits("a")


def test_a_pong_renews_from_its_own_ping_and_no_later_one(play: Play) -> None:
    play.keep()
    first = play.core.ping_sent(play.generation, play.now)
    play.wait(1.5, renewing=False)
    play.core.ping_sent(play.generation, play.now)
    assert first is not None
    play.core.pong_received(play.generation, first, LEASE)
    play.wait(0.6, renewing=False)
    assert not play.hits("a")


def test_without_a_clock_that_counts_suspend_nothing_is_answered_from_memory() -> None:
    play = Play(connected=False)
    play.now = math.inf
    play.connect()
    play.keep()
    assert not play.hits("a")
    assert not play.core.is_stale(play.generation, play.now)


def test_a_lease_that_lapsed_and_is_renewed_on_the_same_stream_goes_on(play: Play) -> None:
    play.keep()
    play.wait(LEASE + 10, renewing=False)
    assert not play.hits("a")
    play.renew()
    assert play.hits("a")


def test_the_lease_is_what_the_latest_pong_says(play: Play) -> None:
    play.keep()
    play.renew(lease=1)
    play.wait(0.999, renewing=False)
    assert play.hits("a")
    play.wait(0.001, renewing=False)
    assert not play.hits("a")


def test_a_pong_answers_the_pings_before_it_and_none_twice(play: Play) -> None:
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
def test_a_lease_that_is_none_renews_nothing(lease: float) -> None:
    play = Play(connected=False)
    play.generation = play.core.stream_opened()
    play.renew(lease)
    assert not play.keep()


def test_what_the_lease_is_measured_by_may_jump_while_the_machine_is_suspended(play: Play) -> None:
    play.keep()
    play.wait(8 * 3600, renewing=False)
    assert not play.hits("a")


def test_pings_are_half_of_the_lease_apart_with_jitter(play: Play) -> None:
    play.renew(lease=8)
    assert play.core.pause_seconds(0) == 4
    assert play.core.pause_seconds(1) == 3


def test_a_stream_that_leaves_pings_unanswered_is_to_be_given_up(play: Play) -> None:
    play.core.ping_sent(play.generation, play.now)
    assert not play.core.is_stale(play.generation, play.now + 5)
    assert play.core.is_stale(play.generation, play.now + 5.1)
    play.renew()
    assert not play.core.is_stale(play.generation, play.now + 5.1)
    play.core.stream_opened()
    assert play.core.is_stale(play.generation, play.now)


# Generations.


def test_nothing_is_kept_without_a_stream_or_before_its_first_pong() -> None:
    play = Play(connected=False)
    assert not play.keep()
    play.generation = play.core.stream_opened()
    assert not play.keep()
    play.renew()
    assert not play.hits("a")
    assert play.keep()


def test_an_answer_is_kept_only_if_it_was_sent_after_the_first_pong() -> None:
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


def test_a_new_stream_clears_the_cache_even_if_the_loss_was_not_told(play: Play) -> None:
    play.keep()
    play.connect()
    assert not play.hits("a")


def test_an_answer_of_an_earlier_generation_is_not_kept(play: Play) -> None:
    flight = play.sent()
    play.connect()
    assert not play.answered(flight)
    flight = play.sent()
    play.core.stream_lost(play.generation)
    assert not play.answered(flight)


def test_what_a_stream_says_after_it_was_replaced_renews_nothing(play: Play) -> None:
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


# Changes.


def test_a_change_takes_out_the_session_the_user_or_all(play: Play) -> None:
    for name, user in (("a", "ana"), ("b", "ana"), ("c", "eve"), ("d", "eve")):
        play.keep(name, user_id=user)
    play.evict("a", "unknown")
    assert play.hits("a", "b", "c", "d") == {"b", "c", "d"}
    play.evict(users=("eve", "nobody"))
    assert play.hits("a", "b", "c", "d") == {"b"}
    play.keep("c")
    play.evict(everything=True)
    assert play.hits("a", "b", "c", "d") == set()
    assert play.core.statistics(play.now).evictions == 5


def test_a_session_is_taken_out_under_each_of_its_tokens(play: Play) -> None:
    play.keep("a", token="t-old")
    play.keep("a", token="t-new")
    play.evict("a")
    assert not play.hits("old", "new")


@pytest.mark.parametrize("sessions", [2, 64, 65, 80])
def test_a_user_may_have_many_sessions(play: Play, sessions: int) -> None:
    names = [str(number) for number in range(sessions)]
    for name in names:
        play.keep(name)
    for name in names[1:]:
        play.evict(name)
        assert not play.hits(name)
    assert play.hits(*names) == {"0"}
    play.evict(users=("ana",))
    assert not play.hits(*names)
    assert play.core.statistics(play.now).size == 0


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"]},
        {"names": [], "users": ("ana",)},
        {"names": [], "everything": True},
    ],
    ids=["session", "user", "everything"],
)
def test_a_change_wins_against_an_answer_that_is_on_its_way(
    play: Play, change: dict[str, Any]
) -> None:
    flight = play.sent()
    play.evict(*change.pop("names"), **change)
    assert not play.answered(flight)
    assert play.keep()


def test_a_change_of_others_leaves_an_answer_on_its_way_alone(play: Play) -> None:
    flight = play.sent()
    play.evict("b", users=("eve",))
    assert play.answered(flight)


def test_a_change_is_remembered_for_each_call_that_was_sent_before_it(play: Play) -> None:
    first, second = play.sent(), play.sent()
    play.evict("a")
    third = play.sent()
    assert not play.answered(second)
    play.evict("b")
    assert not play.answered(first)
    assert play.answered(third)


def test_so_many_changes_that_they_can_not_be_remembered_discard_every_answer() -> None:
    flights = Flights(changes_limit=3)
    flight = flights.begin(1, 0, 0)
    flights.overtake(["a", "b", "c"])
    assert not flights.is_overtaken(flight, ["d"])
    flights.overtake(["e"])
    assert flights.is_overtaken(flight, ["d"])
    assert not flights.is_overtaken(flights.begin(1, 0, 0), ["a", "d"])


def test_changes_are_forgotten_with_the_calls_that_they_concern() -> None:
    flights = Flights()
    flights.overtake(["x"])
    first = flights.begin(1, 0, 0)
    flights.overtake(["a"])
    second = flights.begin(1, 0, 0)
    flights.overtake(["b"])
    assert set(flights._changes) == {"a", "b"}
    flights.end(first)
    assert set(flights._changes) == {"b"}
    flights.end(second)
    assert not flights._changes


def test_a_rejection_takes_out_what_was_kept_and_is_not_kept_itself(play: Play) -> None:
    play.keep()
    flight = play.sent()
    play.reject("a", RejectionReason.REVOKED)
    assert play.look() is None
    assert not play.answered(flight)


def test_a_rejection_for_another_user_says_nothing_about_the_session(play: Play) -> None:
    play.keep()
    play.reject("a", RejectionReason.USER_MISMATCH)
    assert play.hits("a")


def test_what_this_client_ended_itself_is_gone_at_once(play: Play) -> None:
    play.keep("a")
    play.keep("b")
    flight = play.sent()
    play.core.token_ended(key_of("t-a"))
    assert play.hits("a", "b") == {"b"}
    assert not play.answered(flight, "a")


def test_ending_a_user_s_other_sessions_takes_them_out(play: Play) -> None:
    play.keep("a")
    play.keep("b")
    play.keep("c", user_id="eve")
    play.core.others_ended(key_of("t-a"))
    assert play.hits("a", "b", "c") == {"c"}


def test_ending_the_other_sessions_of_an_unknown_user_takes_all_out(play: Play) -> None:
    play.keep("b")
    flight = play.sent()
    play.core.others_ended(key_of("t-a"))
    assert not play.hits("b")
    assert not play.answered(flight, "b")


# What is asked.


def test_the_user_must_be_the_one_asked_for(play: Play) -> None:
    play.keep()
    assert play.look(user_id="ana")
    assert play.look(user_id="eve") == Rejection(RejectionReason.USER_MISMATCH)
    assert play.look(user_id="") is None  # the call is to say what is wrong with it


def test_the_whole_token_counts(play: Play) -> None:
    play.keep(token="t-" + "a" * 70)
    for other in ("t-" + "a" * 69, "t-" + "a" * 71, "T-" + "a" * 70, "t-" + "a" * 69 + "b"):
        assert play.core.lookup(play.now, other) is None


@pytest.mark.parametrize("token", [None, "", "\ud800", "ä", "x" * 257])
def test_what_is_no_token_is_not_known(play: Play, token: str | None) -> None:
    assert play.core.lookup(play.now, token) is None


def test_a_token_may_be_wrapped(play: Play) -> None:
    play.keep()
    assert play.core.lookup(play.now, SessionToken("t-a"))
    with pytest.raises(TypeError):
        play.core.lookup(play.now, b"t-a")  # type: ignore[arg-type]


def test_no_token_is_in_a_repr_or_kept_at_all(play: Play) -> None:
    token = "ses_" + "".join(["Z"] * 70)
    held = sys.getrefcount(token)
    assert play.keep(token=token)
    play.wait(70)
    assert play.core.lookup(play.now, token)
    assert sys.getrefcount(token) > held  # by the report
    assert token not in repr(play.due)
    play.due.clear()
    assert sys.getrefcount(token) == held
    assert token.encode() not in pickle.dumps([*play.core._entries.hot])


# Activity.


def test_a_session_in_use_is_reported_once_a_minute_by_its_next_use(play: Play) -> None:
    play.keep()
    for _ in range(59):
        play.wait(1)
        assert play.look()
    assert play.due == []
    play.wait(1)
    assert play.look()
    assert play.look()
    assert [(due.token, due.ip_address) for due in play.due] == [("t-a", None)]
    assert play.core.statistics(play.now).revalidations == 1


def test_a_session_that_is_not_used_is_not_reported(play: Play) -> None:
    play.keep()
    play.wait(1000)
    assert play.look(passive=True)
    assert play.look(user_id="eve") is not None
    assert play.due == []


def test_a_report_that_failed_is_repeated_by_a_later_use(play: Play) -> None:
    play.keep()
    play.wait(60)
    play.look()
    play.wait(5.9)
    play.look()
    assert len(play.due) == 1
    play.wait(0.2)
    play.look()
    assert len(play.due) == 2


def test_the_answer_to_a_report_begins_another_window(play: Play) -> None:
    play.keep()
    play.wait(60)
    play.look()
    play.keep(last_active_time=play.after(seconds=-60))
    play.wait(59)
    play.look()
    assert len(play.due) == 1
    play.wait(1)
    play.look()
    assert len(play.due) == 2


def test_the_first_use_after_a_passive_answer_is_reported_at_once(play: Play) -> None:
    play.keep(passive=True)
    assert play.look(passive=True)
    assert play.due == []
    assert play.look()
    assert len(play.due) == 1


def test_use_that_the_authority_did_not_record_yet_is_reported_when_it_does(play: Play) -> None:
    play.keep(last_active_time=play.after(seconds=-50))
    play.wait(9)
    play.look()
    assert play.due == []
    play.wait(1)
    play.look()
    assert len(play.due) == 1


def test_a_last_use_far_off_makes_no_storm_of_reports(play: Play) -> None:
    play.keep(last_active_time=play.after(seconds=-59.9))
    play.wait(5.9)
    play.look()
    assert play.due == []
    play.wait(0.2)
    play.look()
    assert len(play.due) == 1


def test_an_idle_timeout_makes_the_window_a_tenth_of_it(play: Play) -> None:
    play.keep(idle_expire_time=play.after(seconds=100))
    play.wait(9.9)
    play.look()
    assert play.due == []
    play.wait(0.1)
    play.look()
    assert len(play.due) == 1


def test_the_window_can_be_chosen() -> None:
    play = Play(activity_seconds=10)
    play.keep()
    play.wait(10)
    play.look()
    assert len(play.due) == 1


def test_a_report_carries_the_latest_address(play: Play) -> None:
    play.keep(ip_address="192.0.2.1")
    assert play.look(ip_address="192.0.2.1")
    assert play.look(ip_address="2001:db8::1")
    assert play.look()
    assert play.look(ip_address="")
    play.wait(60)
    assert play.look()
    assert play.due == [Due("t-a", "2001:db8::1")]


def test_an_address_given_while_a_report_is_on_its_way_is_carried_by_the_next(play: Play) -> None:
    play.keep(ip_address="192.0.2.1")
    play.wait(60)
    play.look()
    flight = play.sent()
    play.look(ip_address="192.0.2.9")
    play.answered(flight, last_active_time=play.after(seconds=-60))
    play.wait(60)
    play.look()
    assert [due.ip_address for due in play.due] == ["192.0.2.1", "192.0.2.9"]


@pytest.mark.parametrize("text", ["junk", "192.0.2.1:80", "fe80::1%eth0"])
def test_an_address_that_is_none_is_left_to_the_authority_to_refuse(play: Play, text: str) -> None:
    play.keep(ip_address="192.0.2.1")
    assert play.look(ip_address=text) is None
    play.wait(60)
    play.look()
    assert play.due == [Due("t-a", "192.0.2.1")]


def test_two_threads_that_find_a_report_due_make_one(play: Play) -> None:
    play.keep()
    play.wait(60)
    entry = play.core._entries.get(key_of("t-a"))
    assert entry is not None
    play.core._fall_due(play.now, "t-a", entry)
    play.core._fall_due(play.now, "t-a", entry)
    assert len(play.due) == 1


# Expiry.


def test_a_session_dies_by_itself_a_little_early(play: Play) -> None:
    play.keep(expire_time=play.after(seconds=100))
    play.wait(100 - CLOCK_SKEW_SECONDS - 0.1)
    assert play.hits("a")
    play.wait(0.2)
    assert not play.hits("a")


def test_a_session_dies_idle(play: Play) -> None:
    play.keep(idle_expire_time=play.after(seconds=100))
    play.wait(100 - CLOCK_SKEW_SECONDS)
    assert not play.hits("a")


def test_a_session_about_to_die_is_not_kept(play: Play) -> None:
    assert not play.keep(expire_time=play.after(seconds=CLOCK_SKEW_SECONDS))


def test_an_earlier_end_by_the_authority_s_clock_is_learned_from_its_answers(play: Play) -> None:
    # The authority's clock is at least ten minutes ahead: somebody was active then.
    play.keep("b", last_active_time=play.after(minutes=10))
    play.keep("a", expire_time=play.after(minutes=11))
    assert play.hits("a")
    play.wait(60)
    assert not play.hits("a")
    assert not play.keep("c", expire_time=play.after(minutes=9))


def test_a_wall_clock_that_is_set_back_prolongs_nothing(play: Play) -> None:
    play.keep(expire_time=play.after(seconds=100))
    play.wall -= timedelta(days=1)
    play.wait(100)
    assert not play.hits("a")


# Bounds.


def test_the_least_recently_used_sessions_make_room() -> None:
    play = Play(max_sessions=3)
    for name in "abc":
        play.keep(name)
    play.look("a")
    play.keep("d")
    assert play.hits("a", "b", "c", "d") == {"a", "c", "d"}
    statistics = play.core.statistics(play.now)
    assert (statistics.size, statistics.displacements, statistics.evictions) == (3, 1, 0)


def test_what_is_used_every_second_stays_though_not_every_use_is_noted() -> None:
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


def test_a_session_that_was_looked_at_a_moment_before_its_end_ends_all_the_same(play: Play) -> None:
    play.keep(expire_time=play.after(seconds=10.5 + CLOCK_SKEW_SECONDS))
    play.wait(10.25)
    assert play.look()
    play.wait(0.2)
    assert play.look(user_id="bob") == Rejection(RejectionReason.USER_MISMATCH)
    assert play.look()
    play.wait(0.1)
    misses = play.core.statistics(play.now).misses
    assert play.look() is play.look(user_id="bob") is None
    assert play.core.statistics(play.now).misses == misses + 2


def test_a_use_that_falls_due_a_moment_after_another_is_reported(play: Play) -> None:
    play.keep()
    play.wait(59.5)
    play.look()
    assert not play.due
    play.wait(0.5)
    play.look()
    assert play.due == [Due("t-a", None)]


def test_the_order_of_use_spans_what_is_hot_and_what_is_cold() -> None:
    play = Play(max_sessions=200)
    names = [str(number) for number in range(200)]
    for name in names:
        play.keep(name, ip_address="192.0.2.7")
    assert len(play.core._entries.hot) == 64
    for name in names[:100]:
        assert play.look(name)
    play.keep("x")
    assert play.hits(*names) == {*names} - {"100", "101", "102"}  # one in 64 at once
    assert len(play.core._entries.hot) == 64


def test_what_was_cold_is_what_it_was() -> None:
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


def test_cold_sessions_are_evicted_as_hot_ones_are() -> None:
    play = Play(max_sessions=200)
    names = [str(number) for number in range(100)]
    for name in names:
        play.keep(name, user_id=f"u-{int(name) % 2}")
    play.evict("0")
    play.evict(users=("u-1",))
    assert play.hits(*names) == {name for name in names[1:] if int(name) % 2 == 0}


def test_a_session_that_another_thread_evicts_meanwhile_is_no_error(play: Play) -> None:
    class Meanwhile(OrderedDict[bytes, Entry]):
        def get(self, key: bytes, default: Any = None) -> Any:
            found = super().get(key, default)
            self.clear()
            return found

    play.keep()
    play.core._hot = Meanwhile(play.core._entries.hot)
    assert play.look()  # as of its beginning


def test_threads_find_nothing_that_was_evicted_before_they_asked() -> None:
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


def test_statistics_tell_what_goes_on(play: Play) -> None:
    play.look("x")
    play.keep()
    play.look()
    play.wait(0.5, renewing=False)
    statistics = play.core.statistics(play.now)
    assert (statistics.hits, statistics.misses, statistics.size) == (1, 1, 1)
    assert statistics.connected
    assert statistics.lease_age_seconds == 0.5
    assert statistics.lease_seconds == LEASE
    play.core.stream_lost(play.generation)
    statistics = play.core.statistics(play.now)
    assert not statistics.connected
    assert statistics.lease_age_seconds is None
    assert statistics.lease_seconds is None


@pytest.mark.parametrize("settings", [{"max_sessions": 0}, {"max_sessions": 1_000_001}])
def test_a_size_has_limits(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_sessions is not from 1 to"):
        NearCache(**settings)


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf")])
def test_a_window_has_limits(seconds: float) -> None:
    with pytest.raises(ValueError, match="activity_seconds is not a number of seconds from 1 on"):
        NearCache(activity_seconds=seconds)
