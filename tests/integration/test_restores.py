"""A campaign: databases go back in time under load. The fence notices exactly the lost endings, and a replay ends them."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from uuid import UUID

import pytest

from tests.integration.restoring import (
    RECOVERY_SECONDS,
    Databases,
    Load,
    Row,
    Served,
    id_of,
    rows_of_postgresql,
    rows_of_sqlite,
)
from tests.support.program import DATABASE, run_process
from tests.support.soak import soaked

pytestmark = pytest.mark.soak

SQLITE_ROUNDS = soaked(long=50, short=1)
POSTGRESQL_ROUNDS = soaked(long=150, short=3)
LOST = "ENDINGS_LOST"
Rows = Mapping[UUID, Row]
Outcomes = Counter[tuple[str, bool]]


@contextlib.asynccontextmanager
async def loading(served: Served, load: Load) -> AsyncIterator[None]:
    """Run callers and a checker. The callers end first, so that no call is in flight at the end."""
    stopped, unchecked = asyncio.Event(), asyncio.Event()
    async with served.stubs() as server, asyncio.TaskGroup() as tasks:
        checking = tasks.create_task(load.check_until(server, unchecked))
        calling = tasks.create_task(load.call_until(server, stopped))
        try:
            yield
        finally:
            stopped.set()
            await calling
            unchecked.set()
            await checking


async def some_endings(load: Load) -> None:
    """Wait for a random number of endings. In half of the rounds, callers then stop ending sessions, and only sign in."""
    load.ends = True
    wanted = len(load.answered) + load.random.randint(5, 60)
    async with asyncio.timeout(RECOVERY_SECONDS):
        while len(load.answered) < wanted:
            await asyncio.sleep(0.005)
    load.ends = load.random.random() < 0.5
    if not load.ends:
        # Most calls in flight are answered in this time. A later answer does no harm.
        await asyncio.sleep(0.3)


async def run_on(load: Load) -> None:
    """Let the load go on for a random time."""
    await asyncio.sleep(load.random.random() * 0.6)


async def check(served: Served, load: Load, begun: int, rows: Rows) -> bool:
    """Check the fence after a round. Return whether endings were lost."""
    answered = load.answered[begun:]
    lost = [each for each in answered if not each.is_in(rows)]
    async with served.stubs() as server, asyncio.timeout(RECOVERY_SECONDS):
        probe = answered[-1].token
        while (state := await server.accepts(probe)) not in {False, LOST}:
            assert state is not True, "a revived session was accepted"
            await asyncio.sleep(0.05)
        assert (state == LOST) == bool(lost), f"{len(lost)} of {len(answered)} endings were lost"
        if lost:
            command = ("fence", "--replay", "audit.jsonl")
            done = await asyncio.to_thread(
                run_process, *command, cwd=served.folder, settings=served.settings
            )
            assert done.returncode == 0, done.stdout + done.stderr
            while await server.accepts(probe) is not False:
                await asyncio.sleep(0.05)
        accepted = [each for each in answered if await server.accepts(each.token)]
        assert accepted == [], "ended sessions are live"
        kept = [each for each in load.live if (row := rows.get(id_of(each))) and not row.has_ended]
        ended = [each for each in kept if await server.accepts(each) is not True]
        assert ended == [], "the replay ended other sessions"
    load.live.clear()
    return bool(lost)


def report(outcomes: Outcomes) -> None:
    """Print how many rounds of each kind lost endings."""
    counts = (
        f"{kind}: {'lost' if lost else 'kept'} {count}"
        for (kind, lost), count in sorted(outcomes.items())
    )
    print(f"{outcomes.total()} rounds:", "; ".join(counts), flush=True)  # noqa: T201 - for the person at the shell


def settings(url: str) -> dict[str, str]:
    return {
        "SESSION_AUTHORITY_DATABASE_URL": url,
        "SESSION_AUTHORITY_STATE_DIRECTORY": "state",
        "SESSION_AUTHORITY_AUDIT_LOG": "audit.jsonl",
    }


async def test_restored_sqlite_files(tmp_path: Path) -> None:
    load = Load(random.Random())
    file, backup = tmp_path / DATABASE, tmp_path / "backup"
    outcomes: Outcomes = Counter()
    with Served(tmp_path, settings(f"sqlite:///{file}")) as served:
        for _ in range(SQLITE_ROUNDS):
            begun = len(load.answered)
            async with loading(served, load):
                await some_endings(load)
                copying = ("backup", str(backup))
                done = await asyncio.to_thread(
                    run_process, *copying, cwd=tmp_path, settings=served.settings
                )
                assert done.returncode == 0, done.stderr
                await run_on(load)
            await asyncio.to_thread(served.stop, at_once=load.random.random() < 0.5)
            for ending in ("-wal", "-shm"):
                file.with_name(file.name + ending).unlink(missing_ok=True)
            backup.rename(file)
            rows = rows_of_sqlite(file)
            await asyncio.to_thread(served.start)
            outcomes["file", await check(served, load, begun, rows)] += 1
            report(outcomes)


async def test_replaced_postgresql_primaries(tmp_path: Path) -> None:
    load = Load(random.Random())
    outcomes: Outcomes = Counter()
    with Databases.started() as databases:
        given = settings(databases.url)
        migrated = run_process("migrate", cwd=tmp_path, settings=given)
        assert migrated.returncode == 0, migrated.stderr
        with Served(tmp_path, given) as served:
            for number in range(POSTGRESQL_ROUNDS):
                begun = len(load.answered)
                kind, replace = KINDS[number % len(KINDS)]
                await replace(served, load, databases)
                rows = await asyncio.to_thread(rows_of_postgresql, databases.primary)
                lost = await check(served, load, begun, rows)
                outcomes[kind, lost] += 1
                assert not (lost and kind == "synchronous failover")
                report(outcomes)


@contextlib.asynccontextmanager
async def maybe_restarting(served: Served, load: Load) -> AsyncIterator[None]:
    """Stop the server while the database is replaced, in half of the rounds."""
    restarts = load.random.random() < 0.5
    if restarts:
        await asyncio.to_thread(served.stop, at_once=load.random.random() < 0.5)
    yield
    if restarts:
        await asyncio.to_thread(served.start)


async def restore_base_backup(served: Served, load: Load, databases: Databases) -> None:
    async with loading(served, load):
        await some_endings(load)
        copy = await asyncio.to_thread(databases.back_up)
        await run_on(load)
        await asyncio.to_thread(databases.primary.stop, at_once=True)
    async with maybe_restarting(served, load):
        await asyncio.to_thread(databases.replace_by, copy)


async def recover_to_a_moment(served: Served, load: Load, databases: Databases) -> None:
    async with loading(served, load):
        await some_endings(load)
        copy = await asyncio.to_thread(databases.back_up)
        first = await asyncio.to_thread(databases.position)
        await run_on(load)
    last = await asyncio.to_thread(databases.position)
    moment = last if load.random.random() < 0.3 else load.random.randint(first, last)
    await asyncio.to_thread(databases.primary.psql, "SELECT pg_create_restore_point('after')")
    await asyncio.to_thread(databases.primary.stop, at_once=False)
    async with maybe_restarting(served, load):
        await asyncio.to_thread(databases.replace_by, copy, lsn=moment)


async def fail_over(served: Served, load: Load, databases: Databases, *, waits: bool) -> None:
    async with loading(served, load):
        standby = await asyncio.to_thread(databases.start_standby, waits=waits)
        await some_endings(load)
        if not waits and load.random.random() < 0.7:
            await asyncio.to_thread(databases.cut_off, standby)
        await run_on(load)
        await asyncio.to_thread(databases.primary.stop, at_once=True)
    async with maybe_restarting(served, load):
        await asyncio.to_thread(databases.fail_over_to, standby)


async def fail_over_asynchronously(served: Served, load: Load, databases: Databases) -> None:
    await fail_over(served, load, databases, waits=False)


async def fail_over_synchronously(served: Served, load: Load, databases: Databases) -> None:
    await fail_over(served, load, databases, waits=True)


Replace = Callable[[Served, Load, Databases], Awaitable[None]]
KINDS: tuple[tuple[str, Replace], ...] = (
    ("base backup", restore_base_backup),
    ("point in time", recover_to_a_moment),
    ("asynchronous failover", fail_over_asynchronously),
    ("base backup", restore_base_backup),
    ("point in time", recover_to_a_moment),
    ("asynchronous failover", fail_over_asynchronously),
    ("synchronous failover", fail_over_synchronously),
)
