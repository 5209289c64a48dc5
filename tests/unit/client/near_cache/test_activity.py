from datetime import timedelta

import pytest

from session_authority import (
    Rejection,
    RejectionReason,
)
from session_authority.near_cache.activity import CLOCK_SKEW_SECONDS
from session_authority.near_cache.core import Due
from session_authority.near_cache.entries import key_of
from tests.unit.client.near_cache.play import Play


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
    play.core._report_use(play.now, "t-a", entry)
    play.core._report_use(play.now, "t-a", entry)
    assert len(play.due) == 1


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
