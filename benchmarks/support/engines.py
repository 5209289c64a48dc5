"""Creates databases of both engines for benchmarks."""

import contextlib
import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import psycopg
from tests.support import postgresql

ENGINES = ("sqlite", "postgresql")
# A production configuration for a small machine: committed changes survive a power cut.
_SETTINGS = {
    "fsync": "on",
    "shared_buffers": "2GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}


def add_engine(parser: ArgumentParser) -> None:
    """Add the option that selects the engine."""
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")


def size_mib(url: str) -> float:
    """Return the size of a database on disk, in MiB."""
    if url.startswith("sqlite"):
        return Path(url.removeprefix("sqlite:///")).stat().st_size / 2**20
    with psycopg.connect(url) as connection:
        [row] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
        return int(row[0]) / 2**20


@contextlib.contextmanager
def fresh(engine: str, *names: str, leave_a_core: bool = True) -> Iterator[list[str]]:
    """Create empty databases, one for each name. Yield their URLs.

    Args:
        engine: One of `ENGINES`.
        names: The names of the databases.
        leave_a_core: Whether PostgreSQL must keep off the first core, so that the authority has it alone.
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
    """Run a PostgreSQL server with production settings."""
    with postgresql.cluster(**_SETTINGS) as cluster:
        if leave_a_core:
            _leave_a_core(cluster.pid)
        yield cluster


def _leave_a_core(pid: int) -> None:
    """Keep the database off the authority's core. In production it runs on another machine."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, range(1, os.cpu_count() or 1))
