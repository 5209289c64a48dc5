import pickle
import sys
from typing import Any

import pytest

from session_authority import (
    NearCache,
    Rejection,
    RejectionReason,
    Session,
    SessionToken,
)
from tests.unit.client.near_cache.play import LEASE, Play


def test_a_cached_answer_is_returned_from_memory(play: Play) -> None:
    assert play.look() is None
    play.keep(attributes={"tenant": "t-1"})
    found = play.look()
    assert isinstance(found, Session)
    assert found.session_id == "s-a"
    assert found.attributes == {"tenant": "t-1"}


def test_a_hit_requires_the_expected_user(play: Play) -> None:
    play.keep()
    assert play.look(user_id="ana")
    assert play.look(user_id="eve") == Rejection(RejectionReason.USER_MISMATCH)
    assert play.look(user_id="") is None  # the authority reports the empty user id


def test_a_changed_token_is_a_miss(play: Play) -> None:
    play.keep(token="t-" + "a" * 70)
    for other in ("t-" + "a" * 69, "t-" + "a" * 71, "T-" + "a" * 70, "t-" + "a" * 69 + "b"):
        assert play.core.lookup(play.now, other) is None


@pytest.mark.parametrize("token", [None, "", "\ud800", "ä", "x" * 257])
def test_an_invalid_token_is_a_miss(play: Play, token: str | None) -> None:
    assert play.core.lookup(play.now, token) is None


def test_a_token_may_be_wrapped(play: Play) -> None:
    play.keep()
    assert play.core.lookup(play.now, SessionToken("t-a"))
    with pytest.raises(TypeError):
        play.core.lookup(play.now, b"t-a")  # type: ignore[arg-type]


def test_no_token_is_in_a_repr_or_in_the_cache(play: Play) -> None:
    token = "ses_" + "".join(["Z"] * 70)
    held = sys.getrefcount(token)
    assert play.keep(token=token)
    play.wait(70)
    assert play.core.lookup(play.now, token)
    assert sys.getrefcount(token) > held  # the report holds the token
    assert token not in repr(play.due)
    play.due.clear()
    assert sys.getrefcount(token) == held
    assert token.encode() not in pickle.dumps([*play.core._entries.hot])


def test_statistics_count_hits_and_misses(play: Play) -> None:
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
def test_the_size_of_a_cache_has_limits(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_sessions must be from 1 to"):
        NearCache(**settings)


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf")])
def test_the_activity_window_has_limits(seconds: float) -> None:
    with pytest.raises(
        ValueError, match="activity_seconds must be a number of seconds, at least 1"
    ):
        NearCache(activity_seconds=seconds)
