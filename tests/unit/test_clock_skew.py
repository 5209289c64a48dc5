import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority_server import clock_skew
from session_authority_server.clock_skew import ClockSkew
from session_authority_server.domain.clock import Clock, SystemClock
from session_authority_server.metrics import CLOCK_SKEW_SECONDS
from session_authority_server.store.database import Database
from tests.contract.engines import opened

CLOSE = timedelta(seconds=0.5)


class Wrong:
    """A clock that is ahead of the right one."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self._by


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened("postgresql", tmp_path) as engine:
        yield engine.database


@pytest.mark.parametrize("seconds", [-3600, 0, 2.5])
async def test_it_is_how_far_the_clock_is_ahead_of_the_databases(
    database: Database, seconds: float
) -> None:
    ahead = timedelta(seconds=seconds)
    assert abs(await ClockSkew(database, Wrong(ahead)).measure() - ahead) < CLOSE


async def test_a_file_has_the_clock_of_its_machine(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as engine:
        skew = ClockSkew(engine.database, Wrong(timedelta(days=1)))
        assert await skew.measure() == timedelta(0)


@pytest.mark.parametrize(
    ("clock", "warnings"), [(SystemClock(), 0), (Wrong(timedelta(seconds=-3)), 1)]
)
async def test_it_is_exported_and_warned_about_when_it_is_large(
    database: Database, clock: Clock, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    CLOCK_SKEW_SECONDS.set(99)
    await watched_until(ClockSkew(database, clock), lambda: exported() != 99)
    assert sum("database's" in record.getMessage() for record in caplog.records) == warnings
    assert abs(exported() - (-3 if warnings else 0)) < CLOSE.total_seconds()


async def test_it_is_measured_again_after_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_skew, "INTERVAL_SECONDS", 0.01)
    CLOCK_SKEW_SECONDS.set(99)
    with monkeypatch.context() as outage:
        outage.setattr(database.dialect, "tell_time", "SELECT missing", raising=False)
        watching = asyncio.create_task(ClockSkew(database, SystemClock()).watch())
        await asyncio.sleep(0.1)
        assert exported() == 99
    async with asyncio.timeout(10):
        while exported() == 99:
            await asyncio.sleep(0.01)
    watching.cancel()


async def watched_until(skew: ClockSkew, condition: Callable[[], bool]) -> None:
    watching = asyncio.create_task(skew.watch())
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
    watching.cancel()


def exported() -> float:
    [metric] = CLOCK_SKEW_SECONDS.collect()
    return metric.samples[0].value
