"""The server works behind a pooler in transaction mode."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import pgbouncer, postgresql
from tests.support.ledger import calling, settings, under_load
from tests.support.pgbouncer import Pooler
from tests.support.postgresql import Cluster
from tests.support.program import Program, run, serving

POOL_SIZE = 4
CALLERS = 60
LOAD_SECONDS = (
    120  # enough for a busy machine, and for the client to detect that the pooler has ended
)
LOAD_CREATED = 200
SETTINGS = (
    "lock_timeout",
    "statement_timeout",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "search_path",
    "row_security",
)
LEFT_BEHIND = (
    "SELECT (SELECT count(*) FROM pg_prepared_statements) "
    "+ (SELECT count(*) FROM pg_listening_channels()) "
    "+ (SELECT count(*) FROM pg_cursors WHERE is_holdable) "
    "+ (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') "
    "+ (SELECT count(*) FROM pg_class WHERE relpersistence = 't')"
)

pytestmark = pytest.mark.skipif(
    pgbouncer.PROGRAM is None,
    reason="NOTHING BEHIND A POOLER IS TESTED: there is no pgbouncer here; install it",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def pooler(cluster: Cluster) -> Iterator[Pooler]:
    with pgbouncer.pooler(cluster.port, POOL_SIZE) as made:
        yield made


@pytest.fixture(scope="module")
def migrated(pooler: Pooler, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the pooler's address. The schema was created through the pooler."""
    for said in ("went from none", "already"):
        done = run("migrate", cwd=tmp_path_factory.mktemp("made"), settings=settings(pooler.url()))
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    return pooler.url()


@pytest.fixture
def server(migrated: str, tmp_path: Path) -> Iterator[Program]:
    """Run a shared server that reaches its database only through the pooler."""
    with serving(tmp_path, settings=settings(migrated)) as program:
        yield program
        assert program.stop() == 0
        assert "Traceback" not in program.stderr


async def test_many_callers_share_few_connections_and_nothing_leaks_between_them(
    server: Program, cluster: Cluster, pooler: Pooler
) -> None:
    async with calling(server) as calls, under_load(calls, CALLERS) as ledger:
        async with asyncio.timeout(LOAD_SECONDS):
            while len(ledger.created) < LOAD_CREATED:
                await asyncio.sleep(0.02)
    expected = [cluster.psql(f"SHOW {name}") for name in SETTINGS]
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(psycopg.connect(pooler.url(), prepare_threshold=None))
            for _ in range(pooler.size)
        ]
        backends = {_one(connection, "SELECT pg_backend_pid()") for connection in held}
        assert len(backends) == pooler.size  # each holds a transaction
        for connection in held:
            assert [_one(connection, f"SHOW {name}") for name in SETTINGS] == expected
            assert _one(connection, LEFT_BEHIND) == 0


def _one(connection: "psycopg.Connection[tuple[object, ...]]", statement: str) -> object:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]
