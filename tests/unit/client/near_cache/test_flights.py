from typing import Any

import pytest

from session_authority import (
    RejectionReason,
)
from session_authority.near_cache.entries import key_of
from session_authority.near_cache.flights import Flights
from tests.unit.client.near_cache.play import Play


def test_a_change_evicts_a_session_a_user_or_everything(play: Play) -> None:
    for name, user in (("a", "ana"), ("b", "ana"), ("c", "eve"), ("d", "eve")):
        play.keep(name, user_id=user)
    play.evict("a", "unknown")
    assert play.hits("a", "b", "c", "d") == {"b", "c", "d"}
    play.evict(users=("eve", "unknown"))
    assert play.hits("a", "b", "c", "d") == {"b"}
    play.keep("c")
    play.evict(everything=True)
    assert play.hits("a", "b", "c", "d") == set()
    assert play.core.statistics(play.now).evictions == 5


def test_an_eviction_removes_each_token_of_a_session(play: Play) -> None:
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
def test_a_change_wins_over_an_answer_in_flight(play: Play, change: dict[str, Any]) -> None:
    flight = play.sent()
    play.evict(*change.pop("names"), **change)
    assert not play.answered(flight)
    assert play.keep()


def test_a_change_of_other_sessions_does_not_affect_an_answer_in_flight(play: Play) -> None:
    flight = play.sent()
    play.evict("b", users=("eve",))
    assert play.answered(flight)


def test_a_change_is_kept_for_each_call_that_was_sent_before_it(play: Play) -> None:
    first, second = play.sent(), play.sent()
    play.evict("a")
    third = play.sent()
    assert not play.answered(second)
    play.evict("b")
    assert not play.answered(first)
    assert play.answered(third)


def test_too_many_changes_discard_every_answer_in_flight() -> None:
    flights = Flights(changes_limit=3)
    flight = flights.begin(1, 0, 0)
    flights.invalidate(["a", "b", "c"])
    assert not flights.is_invalidated(flight, ["d"])
    flights.invalidate(["e"])
    assert flights.is_invalidated(flight, ["d"])
    assert not flights.is_invalidated(flights.begin(1, 0, 0), ["a", "d"])


def test_changes_are_discarded_with_the_calls_that_they_concern() -> None:
    flights = Flights()
    flights.invalidate(["x"])
    first = flights.begin(1, 0, 0)
    flights.invalidate(["a"])
    second = flights.begin(1, 0, 0)
    flights.invalidate(["b"])
    assert set(flights._changes) == {"a", "b"}
    flights.end(first)
    assert set(flights._changes) == {"b"}
    flights.end(second)
    assert not flights._changes


def test_a_rejection_evicts_the_session_and_is_not_cached(play: Play) -> None:
    play.keep()
    flight = play.sent()
    play.reject("a", RejectionReason.REVOKED)
    assert play.look() is None
    assert not play.answered(flight)


def test_a_rejection_for_another_user_says_nothing_about_the_session(play: Play) -> None:
    play.keep()
    play.reject("a", RejectionReason.USER_MISMATCH)
    assert play.hits("a")


def test_a_session_that_the_client_ends_is_evicted_at_once(play: Play) -> None:
    play.keep("a")
    play.keep("b")
    flight = play.sent()
    play.core.token_ended(key_of("t-a"))
    assert play.hits("a", "b") == {"b"}
    assert not play.answered(flight, "a")


def test_ending_a_users_other_sessions_evicts_them(play: Play) -> None:
    play.keep("a")
    play.keep("b")
    play.keep("c", user_id="eve")
    play.core.others_ended(key_of("t-a"))
    assert play.hits("a", "b", "c") == {"c"}


def test_ending_the_other_sessions_of_an_unknown_user_evicts_everything(play: Play) -> None:
    play.keep("b")
    flight = play.sent()
    play.core.others_ended(key_of("t-a"))
    assert not play.hits("b")
    assert not play.answered(flight, "b")
