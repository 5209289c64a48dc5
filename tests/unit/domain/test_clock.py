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
    clock = SystemClock()
    with patch.object(clocks, "datetime") as machine:
        machine.now.side_effect = readings
        seen = [clock.now() for _ in readings]
    assert seen == [NOON, NOON, NOON + timedelta(seconds=1), NOON + timedelta(seconds=1)]


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
