from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.engines import Engine, opened


@pytest.fixture(params=["sqlite", "postgresql", "partitioned"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """Yield each engine in turn. To add an engine, add its name here and open it in `engines`."""
    async with opened(request.param, tmp_path) as fresh:
        yield fresh
