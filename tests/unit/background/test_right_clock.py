import asyncio
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from session_authority_server.background import right_clock
from session_authority_server.background.right_clock import LONGEST_PAUSE, STEADY_FOR, RightClock
from session_authority_server.domain import clock as clocks
from session_authority_server.domain.clock import STEP_ACCEPTED_AFTER, SystemClock
from session_authority_server.domain.errors import ClockWrong
from session_authority_server.observability.metrics import WORKER_RUNS
from session_authority_server.store.clock_times import repair
from session_authority_server.store.tables import upkeep
from session_authority_workers.schedule import Schedule
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine
from tests.support.machine import MachineClocks
from tests.unit.workers.test_schedule import Job


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> MachineClocks:
    machine = MachineClocks(START)
    machine.install(monkeypatch)
    monkeypatch.setattr(right_clock, "elapsed_seconds", clocks.elapsed_seconds)
    return machine


async def agree() -> None:
    """Record that the machine's clock agrees with the database's."""


async def judging(engine: Engine, last_right: datetime) -> RightClock:
    await engine.execute(update(upkeep).values(clock_time=last_right))
    return RightClock(engine.upkeep, SystemClock(), agree)


@pytest.mark.parametrize("pause", [timedelta(0), LONGEST_PAUSE, timedelta(days=-400)])
async def test_a_clock_that_continues_from_its_noted_time_is_right(
    engine: Engine, machine: MachineClocks, pause: timedelta
) -> None:
    await (await judging(engine, START - pause)).require()


@pytest.mark.parametrize("ahead", [LONGEST_PAUSE + SECOND, 400 * DAY])
async def test_after_a_longer_pause_an_operator_must_confirm_the_clock(
    engine: Engine, machine: MachineClocks, ahead: timedelta
) -> None:
    right = await judging(engine, START - ahead)
    for _ in range(2):
        with pytest.raises(ClockWrong, match="session-authority repair-clock"):
            await right.require()
    await repair(engine.database, START)
    await right.require()


async def test_a_clock_that_the_database_contradicts_is_wrong(
    engine: Engine, machine: MachineClocks
) -> None:
    async def differ() -> None:
        raise ClockWrong("2 s ahead")

    with pytest.raises(ClockWrong, match="2 s ahead"):
        await RightClock(engine.upkeep, SystemClock(), differ).require()


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1)])
async def test_after_a_step_the_clock_must_be_steady_for_a_while(
    engine: Engine, machine: MachineClocks, step: timedelta
) -> None:
    right = await judging(engine, START)
    await right.require()
    machine.step(step)
    await right.require()  # the product's clock does not follow the step yet
    machine.wait(STEP_ACCEPTED_AFTER)
    waited = timedelta(0)
    while waited < STEADY_FOR:
        with pytest.raises(ClockWrong, match="stepped less than 10 minutes ago"):
            await right.require()
        machine.wait(MINUTE)
        waited += MINUTE
    await right.require()


async def test_a_server_without_a_worker_notes_its_clock_time(
    engine: Engine, machine: MachineClocks
) -> None:
    right = await judging(engine, START - MINUTE)
    noting = asyncio.create_task(right.note_every_minute())
    async with asyncio.timeout(5):
        while await engine.upkeep.note_clock_time(START - DAY, DAY) != START:
            await asyncio.sleep(0.01)
    noting.cancel()


async def test_upkeep_pauses_while_the_clock_is_wrong_and_logs_it_once(
    engine: Engine, machine: MachineClocks, caplog: pytest.LogCaptureFixture
) -> None:
    right = await judging(engine, START - 400 * DAY)
    expire = Job("expire")
    schedule = Schedule(expire, [], SystemClock(), MINUTE, right)  # type: ignore[arg-type]
    before = WORKER_RUNS.value("expire", "refused")
    for _ in range(3):
        await schedule.run_once(expire)  # type: ignore[arg-type]
    assert expire.runs == 0
    assert WORKER_RUNS.value("expire", "refused") == before + 3
    await repair(engine.database, START)
    await schedule.run_once(expire)  # type: ignore[arg-type]
    assert expire.runs == 1
    lines = [message for message in caplog.messages if "the worker" in message]
    assert len(lines) == 2
    assert lines[0].startswith("the worker is paused: the clock says")
    assert lines[1].endswith("the worker resumes")
