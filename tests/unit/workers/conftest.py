from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_workers import courier, deliver
from tests.support.deliveries import World
from tests.support.engines import START, Engine, opened


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with opened("sqlite", tmp_path) as fresh:
        yield fresh


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def world(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(courier, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(courier, "LONGEST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(deliver, "RENEW_SECONDS", 0.001)
    return World(clock)
