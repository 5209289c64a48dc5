import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority_server.app import clock_skew
from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.domain.clock import TOLERATED_SKEW, ManualClock, SystemClock
from session_authority_server.domain.errors import ClockWrong
from session_authority_server.observability.metrics import CLOCK_SKEW
from session_authority_server.store.database import Database
from tests.support.engines import opened
from tests.support.machine import MachineClocks
from tests.support.waiting import until

CLOSE = timedelta(milliseconds=1)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened("postgresql", tmp_path) as engine:
        yield engine.database


@pytest.fixture
def standing_machine(monkeypatch: pytest.MonkeyPatch) -> MachineClocks:
    """A machine whose clock stands still, while the database's clock runs."""
    monkeypatch.setattr(clock_skew, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(clock_skew, "MEASURE_SECONDS", 0.0)
    machine = MachineClocks(datetime.now(UTC))
    machine.install(monkeypatch)
    monkeypatch.setattr(clock_skew, "elapsed_seconds", lambda: machine.elapsed.total_seconds())
    return machine


@pytest.fixture
def machine(
    database: Database, standing_machine: MachineClocks, monkeypatch: pytest.MonkeyPatch
) -> MachineClocks:
    """A machine whose clock, like the database's, stands still. It is right until the test steps it."""
    standing = f"SELECT TIMESTAMPTZ '{standing_machine.wall.isoformat()}'"
    monkeypatch.setattr(type(database.dialect), "time_query", standing)
    return standing_machine


@pytest.mark.parametrize("seconds", [-3600, 0, 2.5])
async def test_the_skew_is_positive_if_the_machines_clock_is_ahead_of_the_databases(
    database: Database, standing_machine: MachineClocks, seconds: float
) -> None:
    standing_machine.step(timedelta(seconds=seconds))
    skew = ClockSkew(database)
    before = datetime.now(UTC)
    measured = await skew.measure()
    after = datetime.now(UTC)
    assert before - CLOSE <= standing_machine.wall - measured <= after + CLOSE
    assert before - CLOSE <= skew.clock.now() <= after + CLOSE


async def test_sqlite_uses_the_clock_of_its_machine(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        skew = ClockSkew(engine.database)
        await skew.settle()
        assert await skew.measure() == timedelta(0)
        assert isinstance(skew.clock, SystemClock)
        await skew.watch(no_change)
        assert exported() == 0


async def test_a_manual_clock_is_not_compared_with_the_databases(database: Database) -> None:
    clock = ManualClock(datetime(2031, 1, 1, tzinfo=UTC))
    skew = ClockSkew(database, clock)
    await skew.settle()
    await skew.require_right_clock()
    assert skew.clock is clock


@pytest.mark.parametrize("seconds", [-3600, -2, 2, 86_400 * 400])
async def test_a_server_stops_serving_while_its_clock_is_wrong_and_resumes_by_itself(
    database: Database, machine: MachineClocks, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    step = timedelta(seconds=seconds)
    serving: list[bool] = []

    async def set_serving(serves: bool) -> None:
        serving.append(serves)

    skew = ClockSkew(database)
    await skew.settle()
    skew.refuse_if_wrong()
    async with watching(skew, set_serving):
        machine.step(step)
        await until(lambda: serving == [False])
        with pytest.raises(ClockWrong, match=r"of the database's|behind the database's"):
            skew.refuse_if_wrong()
        await until(lambda: abs(timedelta(seconds=exported()) - step) < CLOSE)
        assert abs(skew.clock.now() - (machine.wall - step)) < CLOSE
        machine.step(-step)
        await until(lambda: serving == [False, True])
        skew.refuse_if_wrong()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "stopped serving: this machine's clock is" in caplog.messages[0]


async def test_calls_stop_as_soon_as_any_comparison_finds_the_clock_wrong(
    database: Database, machine: MachineClocks
) -> None:
    skew = ClockSkew(database)
    await skew.settle()
    machine.step(timedelta(hours=1))
    with pytest.raises(ClockWrong):
        await skew.require_right_clock()  # the worker does the same
    with pytest.raises(ClockWrong):
        skew.refuse_if_wrong()


async def test_a_step_is_noticed_while_the_database_does_not_answer(
    database: Database, machine: MachineClocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    skew = ClockSkew(database)
    await skew.settle()
    monkeypatch.setattr(skew, "_statement", "SELECT missing")
    async with watching(skew, no_change):
        machine.step(timedelta(hours=-1))
        await until(lambda: skew.wrong is not None)


async def test_a_server_that_starts_with_a_wrong_clock_serves_no_call_and_logs_why(
    database: Database, machine: MachineClocks, caplog: pytest.LogCaptureFixture
) -> None:
    machine.step(timedelta(hours=1))
    skew = ClockSkew(database)
    await skew.settle()
    assert skew.wrong is not None
    async with watching(skew, no_change):
        await until(lambda: "stopped serving" in caplog.text)
    with pytest.raises(ClockWrong, match=r"3600\.0 s ahead of the database's"):
        await skew.require_right_clock()


async def test_the_skew_is_exported_and_logged_before_it_is_too_large(
    database: Database, machine: MachineClocks, caplog: pytest.LogCaptureFixture
) -> None:
    skew = ClockSkew(database)
    await skew.settle()
    machine.step(0.75 * TOLERATED_SKEW)
    async with watching(skew, no_change):
        await until(lambda: "synchronize both clocks by NTP" in caplog.text)
    assert exported() == pytest.approx(0.75 * TOLERATED_SKEW.total_seconds())
    skew.refuse_if_wrong()
    assert sum("synchronize both clocks by NTP" in message for message in caplog.messages) == 1


async def test_the_skew_is_measured_again_after_an_outage(
    database: Database, machine: MachineClocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    skew = ClockSkew(database)
    with monkeypatch.context() as outage:
        outage.setattr(skew, "_statement", "SELECT missing")
        async with watching(skew, no_change):
            await until(lambda: database._failures["reading"] > 0)
    async with watching(skew, no_change):
        await until(lambda: skew._database_clock.uncertainty_seconds < 60)


async def no_change(_serving: bool) -> None:
    """Ignore a change."""


class watching:  # noqa: N801 - used like a function
    """Watch clocks while the context lasts."""

    def __init__(self, skew: ClockSkew, set_serving: Callable[[bool], Awaitable[None]]) -> None:
        self._watch = skew.watch(set_serving)

    async def __aenter__(self) -> None:
        self._task = asyncio.ensure_future(self._watch)

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def exported() -> float:
    return CLOCK_SKEW.value()
