import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from apscheduler import job as scheduled_job
from apscheduler.executors import base as executors
from apscheduler.schedulers import base as schedulers
from apscheduler.triggers import date, interval

from session_authority_server.domain.clock import SystemClock
from session_authority_server.observability.metrics import (
    OLDEST_OVERDUE,
    WORKER_LAST_DURATION,
    WORKER_LAST_SUCCESS,
    WORKER_ROWS,
)
from session_authority_workers.schedule import Schedule
from tests.support.waiting import until

OFTEN = timedelta(milliseconds=20)


class Job:
    """A job that runs the test's function."""

    min_interval = timedelta(minutes=1)

    def __init__(self, name: str, work: Callable[[], Awaitable[int]] | None = None) -> None:
        self.name = name
        self.runs = 0
        self._work = work
        self.overdue: datetime | None = None

    async def __call__(self) -> int:
        self.runs += 1
        return await self._work() if self._work else 0

    async def oldest_overdue(self) -> datetime | None:
        return self.overdue


def scheduled(expire: Job, purge: Job | None = None, interval: timedelta = OFTEN) -> Schedule:
    return Schedule(expire, [purge or Job("purge")], SystemClock(), interval)  # type: ignore[arg-type, list-item]


async def test_every_job_runs_at_the_start_and_expire_again_at_each_tick() -> None:
    expire, purge = Job("expire"), Job("purge")
    schedule = scheduled(expire, purge)
    schedule.start()
    await until(lambda: expire.runs >= 3)
    await schedule.stop()
    assert purge.runs == 1


async def test_the_work_of_a_run_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = WORKER_ROWS.value("expire")

    async def work() -> int:
        return 7

    expire = Job("expire", work)
    expire.overdue = datetime.now(UTC) - timedelta(seconds=50)
    await scheduled(expire).run_once(expire)  # type: ignore[arg-type]
    assert WORKER_ROWS.value("expire") == before + 7
    assert WORKER_LAST_SUCCESS.value("expire") == pytest.approx(
        datetime.now(UTC).timestamp(), abs=60
    )
    assert 0 <= WORKER_LAST_DURATION.value("expire") < 60
    assert "expire: 7 rows" in caplog.text
    assert 50 <= OLDEST_OVERDUE.value() < 60
    expire.overdue = None
    await scheduled(expire).run_once(expire)  # type: ignore[arg-type]
    assert OLDEST_OVERDUE.value() == 0


async def test_no_run_starts_while_another_takes_longer_than_a_tick() -> None:
    running = most = 0

    async def work() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.06)
        running -= 1
        return 0

    expire = Job("expire", work)
    schedule = scheduled(expire)
    schedule.start()
    await until(lambda: expire.runs >= 2)
    await schedule.stop()
    assert most == 1


async def test_stopping_ends_a_run_and_waits_for_it_without_reporting_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = False

    async def work() -> int:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True
        return 0

    expire = Job("expire", work)
    schedule = scheduled(expire)
    schedule.start()
    await until(lambda: expire.runs == 1)
    await schedule.stop()
    assert ended
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("turns", range(6))
async def test_no_run_begins_after_stopping(turns: int, caplog: pytest.LogCaptureFixture) -> None:
    expire, purge = Job("expire"), Job("purge")
    schedule = scheduled(expire, purge)
    schedule.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    await schedule.stop()
    before = expire.runs, purge.runs
    await asyncio.sleep(0.05)
    assert (expire.runs, purge.runs) == before
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.fixture
def step_wall_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Return a function that steps the wall clock of APScheduler."""
    offset = timedelta(0)

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stepped":
            return cls.fromtimestamp((datetime.now(tz) + offset).timestamp(), tz)

    for module in (schedulers, scheduled_job, executors, date, interval):
        if hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Stepped)

    def step(by: timedelta) -> None:
        nonlocal offset
        offset = by

    return step


@pytest.mark.parametrize(
    "by",
    [timedelta(seconds=-40), timedelta(days=-20_000), timedelta(hours=3), timedelta(days=20_000)],
    ids=["back by seconds", "back to 1972", "ahead by hours", "ahead by decades"],
)
async def test_runs_keep_their_interval_when_the_wall_clock_is_stepped(
    by: timedelta, step_wall_clock: Callable[[timedelta], None]
) -> None:
    expire = Job("expire")
    schedule = scheduled(expire)
    schedule.start()
    await until(lambda: expire.runs >= 2)
    step_wall_clock(by)
    loop = asyncio.get_running_loop()
    before, stepped = expire.runs, loop.time()
    await until(lambda: expire.runs >= before + 4)
    took = loop.time() - stepped
    await schedule.stop()
    # A missed run is not repeated later.
    assert expire.runs - before <= took / OFTEN.total_seconds() + 2
