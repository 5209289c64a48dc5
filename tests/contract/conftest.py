from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.engines import Engine, opened


# A partitioned PostgreSQL database reaches the lines that another PostgreSQL database reaches, and more.
@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.untraced), "partitioned"]
)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """Yield each engine in turn. To add an engine, add its name here and open it in `engines`."""
    async with opened(request.param, tmp_path) as fresh:
        yield fresh
