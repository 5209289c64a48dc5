from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_authority_server.domain.clock import ManualClock
from tests.support.engines import START, Engine, opened


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with opened("sqlite", tmp_path) as fresh:
        yield fresh


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)
