"""The worker as a separate process: alone, killed, and several concurrently."""

import asyncio
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import update

from session_authority import SessionClient
from session_authority_server.cli import commands
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store import schema
from session_authority_server.store.database import Database
from session_authority_server.store.tables import sessions, upkeep
from tests.support.authority import a_session, insert_sessions
from tests.support.program import Refusal, run, running, serving
from tests.support.soak import soaked
from tests.support.waiting import wait_until

# Sessions that the worker has handled: it recorded their ending, or found them expired and wrote nothing.
ENDED = (
    "(end_time IS NOT NULL OR "
    "(check_time, session_id) <= (SELECT expired_until, expired_id FROM upkeep))"
)


_COPIES = f"""
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO sessions SELECT randomblob(16), {", ".join(list(sessions.c.keys())[1:])}
    FROM n, sessions WHERE session_id = ?
"""


def _make_overdue(folder: Path, count: int) -> None:
    """Create a database file whose sessions expired an hour ago."""

    async def write() -> None:
        database = Database.sqlite(folder / "session-authority.sqlite")
        try:
            if not (await schema.read_version(database)).is_current:
                await schema.migrate(database)
            created = SystemClock().now() - timedelta(days=90, hours=1)
            session = a_session("ada", created)[0]
            await insert_sessions(database, [session])
        finally:
            await database.close()
        with (
            closing(sqlite3.connect(folder / "session-authority.sqlite")) as connection,
            connection,
        ):
            connection.execute(_COPIES, (count - 1, session.session_id.bytes))

    asyncio.run(write())


def _count(folder: Path, condition: str) -> int:
    path = folder / "session-authority.sqlite"
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        [(count,)] = connection.execute(f"SELECT count(*) FROM sessions WHERE {condition}")
        return int(count)


def _expired_rows(said: str) -> int:
    found = re.search(r"expire: (\d+) rows", said)
    assert found, said
    return int(found[1])


def test_worker_once_does_the_work_that_is_due_and_exits(tmp_path: Path) -> None:
    _make_overdue(tmp_path, 1_200)

    first, second = [run("worker", "--once", cwd=tmp_path) for _ in range(2)]

    assert first.returncode == second.returncode == 0
    assert _expired_rows(first.stdout) == 1_200
    assert _expired_rows(second.stdout) == 0
    assert "purge: 0 rows" in first.stdout
    assert _count(tmp_path, ENDED) == 1_200
    assert _count(tmp_path, "end_time IS NOT NULL") == 0, "each says itself that it expired"


def test_a_dry_run_prints_the_work_that_is_due_and_changes_nothing(tmp_path: Path) -> None:
    _make_overdue(tmp_path, 70)

    done = run("worker", "--once", "--dry-run", cwd=tmp_path)

    assert done.returncode == 0
    assert "expire: 70 rows due; nothing was changed" in done.stdout
    assert "purge: 0 rows due; nothing was changed" in done.stdout
    assert _count(tmp_path, f"NOT {ENDED}") == 70


def test_a_dry_run_requires_once() -> None:
    done = CliRunner().invoke(commands, ["worker", "--dry-run"])
    assert done.exit_code == 2
    assert "--dry-run needs --once" in done.stderr


def test_the_worker_deletes_old_history(tmp_path: Path) -> None:
    _make_overdue(tmp_path, 30)
    done = run(
        "worker", "--once", cwd=tmp_path, settings={"SESSION_AUTHORITY_HISTORY_RETENTION_DAYS": "0"}
    )
    assert "expire: 30 rows" in done.stdout
    assert "purge: 30 rows" in done.stdout
    assert _count(tmp_path, "1") == 0


def test_a_separate_worker_beside_a_server_without_one(tmp_path: Path) -> None:
    often = {"SESSION_AUTHORITY_WORKER_INTERVAL_SECONDS": "0.2"}
    with (
        serving(tmp_path, "--no-worker", settings=often) as server,
        SessionClient(server.address) as client,
    ):
        new = client.create("ada")
        _make_overdue(tmp_path, 600)
        time.sleep(0.5)
        assert _count(tmp_path, ENDED) == 0, "the server has no worker"
        with running("worker", cwd=tmp_path, settings=often) as worker:
            worker.wait_for(r"(worker on \S*session-authority.sqlite, every 0.2 s)")
            while _count(tmp_path, f"NOT {ENDED}") > 1:
                assert client.validate(new.token)
            _make_overdue(tmp_path, 100)
            wait_until(lambda: _count(tmp_path, ENDED) >= 700)
            assert worker.stop() == 0
            assert "Traceback" not in worker.stderr
        assert client.validate(new.token)
        assert "Traceback" not in server.stderr


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    _make_overdue(tmp_path, 40_000)
    with running("worker", cwd=tmp_path) as worker:
        wait_until(lambda: _count(tmp_path, ENDED) >= 1)
        worker.kill()
    left = _count(tmp_path, f"NOT {ENDED}")
    assert 0 < left < 40_000, "it was killed in mid-run"

    done = run("worker", "--once", cwd=tmp_path)

    assert _expired_rows(done.stdout) == left
    assert _count(tmp_path, f"NOT {ENDED}") == 0


@pytest.mark.soak
def test_two_concurrent_workers_do_the_work_once(tmp_path: Path) -> None:
    overdue = soaked(long=40_000, short=10_000)
    _make_overdue(tmp_path, overdue)
    with (
        running("worker", "--once", cwd=tmp_path) as one,
        running("worker", "--once", cwd=tmp_path) as two,
    ):
        assert (one.exit_code(), two.exit_code()) == (0, 0)
        ended = [_expired_rows(worker.stdout) for worker in (one, two)]

    assert sum(ended) == overdue
    assert _count(tmp_path, f"NOT {ENDED}") == 0


def _make_live(folder: Path, clock_right_before: timedelta) -> None:
    """Create a database file with live sessions. Its clock was last confirmed the given time ago."""

    async def write() -> None:
        database = Database.sqlite(folder / "session-authority.sqlite")
        now = SystemClock().now()
        noted = update(upkeep).values(clock_time=now - clock_right_before)
        made = (a_session(f"user-{n}", now - timedelta(days=89))[0] for n in range(20))
        try:
            await schema.migrate(database)
            await insert_sessions(database, made)
            await database.write(lambda connection: connection.execute(noted))
        finally:
            await database.close()

    asyncio.run(write())


def test_a_clock_far_ahead_ends_and_deletes_nothing_until_an_operator_confirms_it(
    tmp_path: Path, refusal: Refusal
) -> None:
    _make_live(tmp_path, timedelta(days=400))
    _make_overdue(tmp_path, 10)
    assert re.search(
        r"the clock says .* no server or worker has run since .* session-authority repair-clock",
        refusal("worker", "--once"),
    )
    assert _count(tmp_path, ENDED) == 0

    noted = _clock_time(tmp_path)
    asked = run("repair-clock", cwd=tmp_path)
    assert asked.returncode == 1  # the confirmation prompt got no answer
    assert "Is that right?" in asked.stdout
    assert _clock_time(tmp_path) == noted

    confirmed = run("repair-clock", "--yes", cwd=tmp_path)
    assert confirmed.returncode == 0
    assert "sweep times moved to the present: 0; reopened sessions: 0" in confirmed.stdout
    assert "expire: 10 rows" in run("worker", "--once", cwd=tmp_path).stdout
    assert _count(tmp_path, ENDED) == 10


def test_a_server_without_a_worker_keeps_the_pause_short(tmp_path: Path) -> None:
    _make_live(tmp_path, timedelta(hours=20))
    with serving(tmp_path, "--no-worker"):
        minute = timedelta(minutes=1)
        wait_until(lambda: _clock_time(tmp_path) >= SystemClock().now() - minute)


def _clock_time(folder: Path) -> datetime:
    path = folder / "session-authority.sqlite"
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        [(microseconds,)] = connection.execute("SELECT clock_time FROM upkeep")
        return datetime.fromtimestamp(microseconds / 1e6, UTC)
