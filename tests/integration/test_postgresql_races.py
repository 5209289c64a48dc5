"""Two servers and two workers on one PostgreSQL. One order of events must explain every answer.

The link from one server to the database is sometimes slow. So its results can be outdated when they arrive, and
other statements can run between the statements of its transactions.

SESSION_AUTHORITY_RACE_SEED selects another run.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from session_authority import (
    AsyncSessionClient,
)
from session_authority.v1 import session_admin_service_pb2_grpc
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from session_authority_server.store.schema import migrate
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_workers.pace import Pace
from tests.integration.postgresql_race import LIMIT, RESOLUTION_SECONDS, USERS, Race, missing
from tests.integration.race_history import (
    Change,
    Count,
    History,
    violations,
)
from tests.support import audit, postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Program, run, running
from tests.support.slow_link import slow_link
from tests.support.soak import soaked

SECONDS = soaked(long=120.0, short=2.0)
PATIENCE_SECONDS = 60.0  # enough for every event to occur on a busy machine
SEED = int(os.environ.get("SESSION_AUTHORITY_RACE_SEED", "1"))
ROUND_SECONDS = 2.0
REPORT_SECONDS = 5
CROWD_SIZE = 3_000
# Make live sessions due for the worker's check, so that it must find that they have not expired. Their check time is
# just after the last session that the worker checked.
NUDGE = (
    "UPDATE sessions SET check_time = expired_until + interval '1 microsecond' FROM upkeep "
    "WHERE session_id IN (SELECT session_id FROM sessions WHERE end_time IS NULL "
    "AND expire_time > now() ORDER BY session_id FOR NO KEY UPDATE SKIP LOCKED)"
)
# Enough work for both workers: some endings that must be recorded, and some that must not.
CROWD = (
    "INSERT INTO users (user_id, epoch) VALUES ('crowd', 0) ON CONFLICT DO NOTHING; "
    "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object("
    "'session_id', gen_random_uuid(), 'user_id', 'crowd', 'user_epoch', 0, 'idle_timeout', "
    "CASE WHEN n % 2 = 0 THEN interval '1 second' END, "
    "'last_active_time', now() - interval '1 hour', "
    "'expire_time', now() - interval '10 seconds', "
    "'check_time', greatest(expired_until + interval '1 microsecond', now() - interval '1 minute'), "
    "'end_time', null, 'end_reason', null, 'initiating_entity', null))).* "
    f"FROM sessions AS s, upkeep, generate_series(1, {CROWD_SIZE}) AS n LIMIT {CROWD_SIZE}"
)


async def _nudge(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            await connection.execute(NUDGE)
            await asyncio.sleep(0.05)


async def _migrate(url: str) -> None:
    database = Database.postgresql(url)
    try:
        await migrate(database)
    finally:
        await database.close()


async def _crowd(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(CROWD.encode())


async def _count(url: str, history: History) -> None:
    database = Database.postgresql(url)
    try:
        store, now = SqlSessionStore(database), SystemClock().now()
        for user_id in USERS:
            live = await store.list_live(user_id, now, None, 100)
            history.counts.append(Count(user_id, len(live)))
    finally:
        await database.close()


async def _race(url: str, addresses: list[str]) -> Race:
    async with contextlib.AsyncExitStack() as stack:
        race = Race(
            [await stack.enter_async_context(AsyncSessionClient(each)) for each in addresses],
            [
                session_admin_service_pb2_grpc.SessionAdminServiceStub(
                    await stack.enter_async_context(grpc.aio.insecure_channel(each))
                )
                for each in addresses
            ],
            SEED,
        )
        nudging = asyncio.create_task(_nudge(url))
        await race.do_each_once()
        began, round_number = time.monotonic(), 0
        while (took := time.monotonic() - began) < SECONDS or (
            missing(race.history) and took < PATIENCE_SECONDS
        ):
            await race.run(round_number, ROUND_SECONDS)
            await race.validate_all_tokens()  # sessions are then used right before they end
            await race.exceed_session_limits()
            await _count(url, race.history)
            await race.validate_all_tokens()
            await _crowd(url)
            round_number += 1
        nudging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await nudging
    return race


@contextlib.contextmanager
def _all_running(cluster: Cluster, folder: Path) -> Iterator[tuple[list[Program], list[Program]]]:
    settings = {
        "SESSION_AUTHORITY_SESSION_LIMIT": str(LIMIT),
        "SESSION_AUTHORITY_LAST_ACTIVE_RESOLUTION_SECONDS": str(RESOLUTION_SECONDS),
        "SESSION_AUTHORITY_WORKER_INTERVAL_SECONDS": "0.1",
    }

    def on(port: int) -> dict[str, str]:
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        return settings | {"SESSION_AUTHORITY_DATABASE_URL": address}

    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(slow_link(cluster.port, SEED))
        serve = ("serve", "--listen", "127.0.0.1:0", "--insecure", "--no-worker")
        started = [
            stack.enter_context(running(*command, cwd=folder, settings=on(port)))
            for command, port in (
                (serve, cluster.port),
                (serve, slow),
                (("worker",), cluster.port),
                (("worker",), slow),
            )
        ]
        servers, workers = started[:2], started[2:]
        for server in servers:
            assert server.address
        for worker in workers:
            worker.wait_for("(worker on)")
        yield servers, workers


@pytest.mark.soak
def test_two_servers_and_two_workers_keep_one_consistent_history(tmp_path: Path) -> None:
    with postgresql.cluster(log_min_messages="error", track_commit_timestamp="on") as cluster:
        url = cluster.url()
        asyncio.run(_migrate(url))
        audit.begin(url)
        with _all_running(cluster, tmp_path) as (servers, workers):
            race = asyncio.run(_race(url, [server.address for server in servers]))
            history = race.history
            history.monotonic_zero = time.time() - time.monotonic()
            _wait_for_reports(url, workers)
            for program in (*servers, *workers):
                program.terminate()
            assert [program.exit_code() for program in (*servers, *workers)] == [0] * 4
        once = {"SESSION_AUTHORITY_DATABASE_URL": url}
        due = SystemClock().now() - Pace().safety_lag
        done = run("worker", "--once", cwd=tmp_path, settings=once)
        said = [worker.stderr for worker in workers] + [done.stdout]
        history.worker_said = sum(map(_reported, said))
        audit.end(url, history, due)
        asyncio.run(_count(url, history))
        log = (cluster.folder / "log").read_text()

    found = list(violations(history))
    assert found == [], f"seed {SEED}: {len(found)} violations"
    for text in (*(program.stderr for program in (*servers, *workers)), log):
        assert [line for line in text.splitlines() if _is_trouble(line)] == []
    assert missing(history) == set()
    assert any(map(_is_touch, history.changes))
    assert history.worker_did > 0


def _wait_for_reports(url: str, workers: list[Program]) -> None:
    """Let the workers finish their current run, which they report only at its end."""
    give_up = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < give_up:  # a missing report fails a later check
        left, did = audit.workers_left_and_did(url)
        if not left and did <= sum(_reported(worker.stderr) for worker in workers):
            break
        time.sleep(0.05)


def _reported(text: str) -> int:
    return sum(int(rows) for rows in re.findall(r"expire: (\d+) rows", text))


def _is_touch(change: Change) -> bool:
    before, after = change.before, change.after
    return after.secret == before.secret and after.last_active > before.last_active


def _is_trouble(line: str) -> bool:
    """Return whether a log line reports a fault. A timeout is no fault, since the machine may be busy."""
    if any(sign in line for sign in ("due to user request", "lock timeout", "statement timeout")):
        return False
    return any(sign in line for sign in ("deadlock", "could not serialize", "Traceback", "ERROR:"))
