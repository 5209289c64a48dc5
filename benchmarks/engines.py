"""A fresh database of either engine, for benchmarks."""

import contextlib
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator

from tests import postgresql

ENGINES = ("sqlite", "postgresql")
# As an operator would have it, but for its size: what was answered survives a power cut.
_SETTINGS = {
    "fsync": "on",
    "shared_buffers": "2GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}


def add_engine(parser: ArgumentParser) -> None:
    """Let a benchmark be told which engine to measure."""
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")


@contextlib.contextmanager
def fresh(engine: str, *names: str) -> Iterator[list[str]]:
    """Give the addresses of empty databases, one for each name."""
    if engine == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield [f"sqlite:///{folder}/{name}.sqlite" for name in names]
    else:
        with postgresql.cluster(**_SETTINGS) as cluster:
            for name in names:
                cluster.psql(f"CREATE DATABASE {name}")
            yield [cluster.url(name) for name in names]
