"""A fresh database of either engine, for benchmarks."""

import contextlib
import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import psycopg
from tests.support import postgresql

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


def size_mib(url: str) -> float:
    """Return how much a database takes on disk."""
    if url.startswith("sqlite"):
        return Path(url.removeprefix("sqlite:///")).stat().st_size / 2**20
    with psycopg.connect(url) as connection:
        [row] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
        return int(row[0]) / 2**20


@contextlib.contextmanager
def fresh(engine: str, *names: str, leave_a_core: bool = True) -> Iterator[list[str]]:
    """Give the addresses of empty databases, one for each name.

    Args:
        engine: Which engine.
        names: What they are to be called.
        leave_a_core: Whether a server of databases leaves the first core to whom it serves.
    """
    if engine == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield [f"sqlite:///{folder}/{name}.sqlite" for name in names]
    else:
        with postgresql_cluster(leave_a_core=leave_a_core) as cluster:
            for name in names:
                cluster.psql(f"CREATE DATABASE {name}")
            yield [cluster.url(name) for name in names]


@contextlib.contextmanager
def postgresql_cluster(*, leave_a_core: bool = True) -> Iterator[postgresql.Cluster]:
    """Run a PostgreSQL server with an operator's settings."""
    with postgresql.cluster(**_SETTINGS) as cluster:
        if leave_a_core:
            _leave_a_core(cluster.pid)
        yield cluster


def _leave_a_core(pid: int) -> None:
    """Keep the database off the authority's core: it has a machine of its own wherever speed matters."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, range(1, os.cpu_count() or 1))
