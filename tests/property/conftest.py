import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.engines import Engine, opened

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """An engine and its event loop, shared by many examples."""

    engine: Engine
    runner: asyncio.Runner

    def run(self, work: Callable[[Engine], Awaitable[T]]) -> T:
        async def working() -> T:
            return await work(self.engine)

        return self.runner.run(working())


@contextlib.contextmanager
def bench_in(folder: Path, kind: str) -> Iterator[Bench]:
    """Open an engine for synchronous tests, on a separate event loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        opening = opened(kind, folder)
        engine = runner.run(opening.__aenter__())
        try:
            yield Bench(engine, runner)
        finally:
            runner.run(opening.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def sqlite_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("bench"), "sqlite") as bench:
        yield bench


@pytest.fixture(scope="module")
def postgresql_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("bench"), "postgresql") as bench:
        yield bench
