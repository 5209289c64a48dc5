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


def test_a_session_in_use_is_reported_once_a_minute(play: Play) -> None:
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


def test_the_answer_to_a_report_starts_a_new_window(play: Play) -> None:
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


def test_unrecorded_use_is_reported_at_the_authoritys_resolution(play: Play) -> None:
    play.keep(last_active_time=play.after(seconds=-50))
    play.wait(9)
    play.look()
    assert play.due == []
    play.wait(1)
    play.look()
    assert len(play.due) == 1


def test_a_last_use_in_the_far_future_or_past_causes_no_storm_of_reports(play: Play) -> None:
    play.keep(last_active_time=play.after(seconds=-59.9))
    play.wait(5.9)
    play.look()
    assert play.due == []
    play.wait(0.2)
    play.look()
    assert len(play.due) == 1


def test_the_window_is_a_tenth_of_the_idle_timeout(play: Play) -> None:
    play.keep(idle_expire_time=play.after(seconds=100))
    play.wait(9.9)
    play.look()
    assert play.due == []
    play.wait(0.1)
    play.look()
    assert len(play.due) == 1


def test_the_window_is_configurable() -> None:
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


def test_an_address_given_while_a_report_is_in_flight_goes_with_the_next_report(play: Play) -> None:
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
def test_an_invalid_address_is_sent_to_the_authority(play: Play, text: str) -> None:
    play.keep(ip_address="192.0.2.1")
    assert play.look(ip_address=text) is None
    play.wait(60)
    play.look()
    assert play.due == [Due("t-a", "192.0.2.1")]


def test_two_threads_that_find_a_report_due_send_one_report(play: Play) -> None:
    play.keep()
    play.wait(60)
    entry = play.core._entries.get(key_of("t-a"))
    assert entry is not None
    play.core._report_use(play.now, "t-a", entry)
    play.core._report_use(play.now, "t-a", entry)
    assert len(play.due) == 1


def test_a_cached_session_expires_slightly_early(play: Play) -> None:
    play.keep(expire_time=play.after(seconds=100))
    play.wait(100 - CLOCK_SKEW_SECONDS - 0.1)
    assert play.hits("a")
    play.wait(0.2)
    assert not play.hits("a")


def test_a_cached_session_ends_at_its_idle_timeout(play: Play) -> None:
    play.keep(idle_expire_time=play.after(seconds=100))
    play.wait(100 - CLOCK_SKEW_SECONDS)
    assert not play.hits("a")


def test_a_session_that_is_about_to_expire_is_not_cached(play: Play) -> None:
    assert not play.keep(expire_time=play.after(seconds=CLOCK_SKEW_SECONDS))


def test_the_cache_learns_from_an_answer_that_the_authoritys_clock_is_ahead(play: Play) -> None:
    # A session was active ten minutes in the future, so the authority's clock is at least ten minutes ahead.
    play.keep("b", last_active_time=play.after(minutes=10))
    play.keep("a", expire_time=play.after(minutes=11))
    assert play.hits("a")
    play.wait(60)
    assert not play.hits("a")
    assert not play.keep("c", expire_time=play.after(minutes=9))


def test_setting_the_wall_clock_back_extends_no_session(play: Play) -> None:
    play.keep(expire_time=play.after(seconds=100))
    play.wall -= timedelta(days=1)
    play.wait(100)
    assert not play.hits("a")


def test_a_hit_just_before_the_end_of_a_session_does_not_extend_it(play: Play) -> None:
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


def test_a_use_that_is_due_just_after_another_one_is_reported(play: Play) -> None:
    play.keep()
    play.wait(59.5)
    play.look()
    assert not play.due
    play.wait(0.5)
    play.look()
    assert play.due == [Due("t-a", None)]
