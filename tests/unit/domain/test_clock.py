import math
from datetime import UTC, datetime, timedelta

import pytest

from session_authority_server.domain.clock import (
    STEP_ACCEPTED_AFTER,
    TOLERATED_SKEW,
    DatabaseClock,
    ManualClock,
    SystemClock,
)
from tests.support.machine import MachineClocks

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
TINY = timedelta(milliseconds=1)
STEPS = [HOUR, -HOUR, timedelta(days=400), timedelta(days=-20_000), 1.1 * TOLERATED_SKEW]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> MachineClocks:
    machine = MachineClocks(NOON)
    machine.install(monkeypatch)
    return machine


def test_the_system_clock_returns_the_time_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


@pytest.mark.parametrize("step", STEPS)
def test_a_brief_step_of_the_wall_clock_is_ignored(machine: MachineClocks, step: timedelta) -> None:
    clock = SystemClock()
    machine.step(step)
    for _ in range(20):
        machine.wait(SECOND)
        assert abs(clock.now() - (machine.wall - step)) < TINY
    machine.step(-step)
    machine.wait(SECOND)
    assert abs(clock.now() - machine.wall) < TINY


@pytest.mark.parametrize("step", STEPS)
def test_a_lasting_step_of_the_wall_clock_is_followed_in_both_directions(
    machine: MachineClocks, step: timedelta
) -> None:
    clock = SystemClock()
    machine.step(step)
    clock.now()
    machine.wait(STEP_ACCEPTED_AFTER - TINY)
    assert abs(clock.now() - (machine.wall - step)) < 2 * TINY
    machine.wait(TINY)
    assert abs(clock.now() - machine.wall) < TINY
    machine.wait(HOUR)
    assert abs(clock.now() - machine.wall) < TINY


def test_each_step_must_last_before_it_is_followed(machine: MachineClocks) -> None:
    clock = SystemClock()
    for step in (HOUR, 2 * HOUR, -HOUR):
        machine.step(step)
        clock.now()
        machine.wait(0.9 * STEP_ACCEPTED_AFTER)
    assert abs(clock.now() - (machine.wall - 2 * HOUR)) < TINY


def test_after_a_small_step_back_the_clock_stands_still_until_the_wall_clock_catches_up(
    machine: MachineClocks,
) -> None:
    clock = SystemClock()
    before = clock.now()
    machine.step(-0.5 * SECOND)
    assert clock.now() == before
    machine.wait(0.4 * SECOND)
    assert clock.now() == before
    machine.wait(0.2 * SECOND)
    assert clock.now() > before
    assert abs(clock.now() - machine.wall) < TINY


def test_small_steps_and_drift_are_followed(machine: MachineClocks) -> None:
    clock = SystemClock()
    for _ in range(100):
        machine.wait(SECOND)
        machine.step(0.1 * SECOND)
        assert abs(clock.now() - machine.wall) < TINY


def a_database_clock(machine: MachineClocks, ahead: timedelta, took: timedelta) -> DatabaseClock:
    """Return a clock after an answer of a database whose clock is ahead of the machine's."""
    clock = DatabaseClock()
    answer(clock, machine, ahead, took)
    return clock


def answer(
    clock: DatabaseClock,
    machine: MachineClocks,
    ahead: timedelta,
    took: timedelta,
    *,
    read_after: float = 0.5,
) -> None:
    asked = machine.elapsed.total_seconds()
    machine.wait(read_after * took)
    theirs = machine.wall + ahead
    machine.wait((1 - read_after) * took)
    clock.learn(theirs, asked, machine.elapsed.total_seconds())


@pytest.mark.parametrize("ahead", [timedelta(0), 3 * SECOND, -HOUR, timedelta(days=400)])
@pytest.mark.parametrize("read_after", [0, 0.5, 1])
def test_the_clock_is_never_behind_the_databases_and_ahead_by_at_most_the_uncertainty(
    machine: MachineClocks, ahead: timedelta, read_after: float
) -> None:
    clock, took = DatabaseClock(), timedelta(milliseconds=40)
    answer(clock, machine, ahead, took, read_after=read_after)
    for _ in range(3):
        assert -TINY / 10 <= clock.now() - (machine.wall + ahead) <= took + TINY / 10
        machine.wait(SECOND)


@pytest.mark.parametrize("step", STEPS)
def test_the_databases_clock_does_not_depend_on_the_machines(
    machine: MachineClocks, step: timedelta
) -> None:
    clock = a_database_clock(machine, timedelta(0), TINY)
    before = clock.now()
    machine.step(step)
    machine.wait(SECOND)
    assert abs(clock.now() - before - SECOND) < 2 * TINY
    assert abs(clock.skew() - step) < 2 * TINY


def test_a_slow_answer_changes_nothing_and_a_quick_one_reduces_the_uncertainty(
    machine: MachineClocks,
) -> None:
    clock = a_database_clock(machine, timedelta(0), 40 * TINY)
    answer(clock, machine, timedelta(0), 3 * SECOND, read_after=1)
    answer(clock, machine, timedelta(0), 3 * SECOND, read_after=0)
    assert clock.uncertainty_seconds < 0.041
    assert abs(clock.now() - machine.wall) < 41 * TINY
    answer(clock, machine, timedelta(0), 2 * TINY)
    assert clock.uncertainty_seconds < 0.003
    assert -TINY / 10 < clock.now() - machine.wall + timedelta(seconds=0) < 41 * TINY


def test_a_single_slow_answer_shows_no_skew(machine: MachineClocks) -> None:
    for read_after in (0, 0.5, 1):
        clock = DatabaseClock()
        answer(clock, machine, timedelta(0), 10 * SECOND, read_after=read_after)
        assert clock.skew() == timedelta(0)


def test_a_database_that_has_not_answered_has_no_known_time(machine: MachineClocks) -> None:
    clock = DatabaseClock()
    assert clock.uncertainty_seconds == math.inf
    assert abs(clock.now() - machine.wall) < TINY


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_step_of_the_databases_clock_is_followed_with_its_next_answer(
    machine: MachineClocks, step: timedelta
) -> None:
    clock = a_database_clock(machine, timedelta(0), TINY)
    clock.now()
    answer(clock, machine, step, TINY)
    assert abs(clock.now() - (machine.wall + step)) < 2 * TINY
    assert abs(clock.skew() + step) < 2 * TINY


def test_a_small_correction_never_sets_the_time_back(machine: MachineClocks) -> None:
    clock = a_database_clock(machine, timedelta(0), TINY)
    before = clock.now()
    answer(clock, machine, -0.5 * SECOND, TINY)
    assert clock.now() == before
    machine.wait(SECOND)
    assert before < clock.now() < machine.wall


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
