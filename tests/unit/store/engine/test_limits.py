import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from session_authority_server.store.engine import limits
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.engine.limits import within_time_limit

LIMIT_SECONDS = 0.05


class Driver:
    """Work in a driver, which may react to an interrupt."""

    def __init__(self, *, hears: bool) -> None:
        self.hears = hears
        self.signals: list[str] = []
        self.stopped = asyncio.Event()

    async def work(self) -> str:
        await self.stopped.wait()
        raise ConnectionError


class Engine:
    """The part of an engine that stops work."""

    async def interrupt(self, driver: Driver) -> None:
        driver.signals.append("interrupt")
        await asyncio.sleep(0.01)
        if driver.hears:
            driver.stopped.set()

    def cut_off(self, driver: Driver) -> None:
        driver.signals.append("cut off")
        driver.stopped.set()


def within(driver: Driver, work: Coroutine[Any, Any, str]) -> Coroutine[Any, Any, str]:
    return within_time_limit(cast("Dialect", Engine()), driver, work)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORK_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(limits, "GIVE_UP_SECONDS", LIMIT_SECONDS)


async def test_work_that_ends_in_time_is_not_interrupted() -> None:
    driver = Driver(hears=True)
    assert await within(driver, asyncio.sleep(0, "done")) == "done"
    await asyncio.sleep(3 * LIMIT_SECONDS)
    assert driver.signals == []


async def test_work_that_takes_too_long_is_interrupted() -> None:
    driver = Driver(hears=True)
    with pytest.raises(ConnectionError):
        await within(driver, driver.work())
    await asyncio.sleep(3 * LIMIT_SECONDS)
    assert driver.signals == ["interrupt"]


async def test_work_that_ignores_an_interrupt_is_cut_off() -> None:
    driver = Driver(hears=False)
    with pytest.raises(ConnectionError):
        await within(driver, driver.work())
    assert driver.signals == ["interrupt", "cut off"]


async def test_a_connection_is_not_reused_before_the_interrupt_has_been_sent() -> None:
    driver = Driver(hears=True)

    async def ends_just_then() -> str:
        await asyncio.sleep(LIMIT_SECONDS)
        while not driver.signals:
            await asyncio.sleep(0)
        return "done"

    assert await within(driver, ends_just_then()) == "done"
    assert driver.stopped.is_set()
