from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest

from session_authority_server.domain import clock as clocks
from session_authority_server.domain.clock import ManualClock, SystemClock

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


def test_the_system_clock_tells_the_time_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_a_process_never_sees_the_clock_go_back() -> None:
    readings = [NOON, NOON - timedelta(hours=1), NOON + timedelta(seconds=1), NOON]
    with patch.object(clocks, "datetime", wraps=datetime) as machine:
        machine.min = NOON - timedelta(days=400)
        clock = SystemClock()
        machine.now.side_effect = readings
        seen = [clock.now() for _ in readings]
    assert seen == sorted(seen)
    assert seen[0] == NOON
    assert seen[2] == NOON + timedelta(seconds=1)


def test_a_clock_that_was_set_back_goes_on_at_the_speed_of_time() -> None:
    with (
        patch.object(clocks, "datetime", wraps=datetime) as machine,
        patch.object(clocks, "time") as stopwatch,
    ):
        machine.min = NOON - timedelta(days=400)
        clock = SystemClock()
        machine.now.side_effect = [NOON, *[NOON - timedelta(days=1)] * 3]
        stopwatch.monotonic.side_effect = [100.0, 101.0, 161.0, 161.0]
        seen = [clock.now() - NOON for _ in range(4)]
    assert seen == [timedelta(seconds=seconds) for seconds in (0, 1, 61, 61)]


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.advance(timedelta(0))
    clock.advance(timedelta(seconds=5))
    assert clock.now() == NOON + timedelta(seconds=5)


def test_a_manual_clock_refuses_to_go_back() -> None:
    clock = ManualClock(NOON)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(timedelta(microseconds=-1))
    assert clock.now() == NOON
