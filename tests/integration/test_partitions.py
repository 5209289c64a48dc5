"""Partitions of PostgreSQL: they are created ahead of time, and dropped once all their sessions are old."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from session_authority import SessionClient
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import new_id
from session_authority_server.ports.store import Touch
from session_authority_server.store.database import Database
from session_authority_server.store.partitions import AHEAD
from session_authority_workers.expire import Expire
from session_authority_workers.purge import Partition, Purge
from tests.support import postgresql
from tests.support.engines import DAY, START, Engine, a_session, migrated_postgresql, over
from tests.support.program import run, running, serving

SPAN = 7 * DAY
POLICY = Policy()
KEPT = POLICY.absolute_lifetime + POLICY.history_retention
NAMES = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = 'sessions'::regclass ORDER BY 1"
)
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'sessions_until_%'"
Admin = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def url() -> Iterator[str]:
    """A database with weekly partitions."""
    with migrated_postgresql(SPAN.days) as address:
        yield address


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    database = Database.postgresql(url)
    yield over(database)
    await database.close()


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def partition(engine: Engine, clock: ManualClock) -> Partition:
    return Partition(engine.upkeep, clock, POLICY)


def names(admin: Admin, query: str = NAMES) -> list[str]:
    return [str(name) for (name,) in admin.execute(query.encode()).fetchall()]


def made_at(moment: datetime, user_id: str = "ann", **rest: object) -> Session:
    return a_session(user_id, at=moment, session_id=new_id(moment), **rest)  # type: ignore[arg-type]


async def pass_time(engine: Engine, clock: ManualClock, span: timedelta) -> None:
    clock.advance(span)
    await Expire(engine.upkeep, clock)()


async def test_the_first_partitions_already_cover_the_near_future(
    admin: Admin, partition: Partition
) -> None:
    there = names(admin)
    assert there[0] == "sessions_until_20260308"
    assert len(there) == -(-(AHEAD + timedelta(hours=12)) // SPAN)
    assert await partition.count(100) == 0
    assert await partition() == 0


async def test_partitions_are_created_once_as_time_passes(
    engine: Engine, admin: Admin, clock: ManualClock, partition: Partition
) -> None:
    before = names(admin)
    clock.advance(3 * SPAN)
    assert await partition.count(100) == 3
    dropped_counts: list[int] = []
    both = await asyncio.gather(partition(dropped_counts.append), partition(dropped_counts.append))
    assert sum(both) == 3
    assert sum(dropped_counts) == 3
    assert len(names(admin)) == len(before) + 3
    await engine.add(made_at(clock.now() + AHEAD))
    with pytest.raises(StoreUnavailable):
        await engine.add(made_at(clock.now() + AHEAD + 2 * SPAN))


async def test_later_partitions_have_the_same_structure_as_the_first(
    admin: Admin, clock: ManualClock, partition: Partition
) -> None:
    clock.advance(SPAN)
    await partition()
    described = admin.execute(
        "SELECT c.reloptions, array_agg(regexp_replace(pg_get_indexdef(x.indexrelid), "
        "'sessions_until_[0-9]+', '', 'g') ORDER BY pg_get_indexdef(x.indexrelid)) "
        "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_index x ON x.indrelid = c.oid "
        "WHERE i.inhparent = 'sessions'::regclass GROUP BY c.oid, c.reloptions"
    ).fetchall()
    assert len({str(each) for each in described}) == 1
    assert "fillfactor=80" in str(described[0])


async def test_a_partition_is_dropped_once_all_its_sessions_are_past_the_retention(
    engine: Engine, admin: Admin, clock: ManualClock, partition: Partition
) -> None:
    whole = POLICY.absolute_lifetime
    old, young = made_at(START, lifetime=whole), made_at(START + SPAN, lifetime=whole)
    await engine.add(old, young)
    purge = Purge(engine.upkeep, clock, POLICY)
    oldest, *others = names(admin)
    await pass_time(engine, clock, KEPT + DAY)
    # The session is past the retention, but its partition is not. The session is deleted with its partition.
    assert await purge() == 0
    await partition()
    assert oldest in names(admin)
    clock.advance(SPAN)
    assert await partition() >= 1
    assert oldest not in names(admin, TABLES)
    assert names(admin)[0] == others[0]
    found = await engine.sessions.read_sessions([old.session_id, young.session_id])
    assert set(found) == {young.session_id}


@pytest.mark.parametrize("why", ["live", "live but idle once", "in the history"])
async def test_a_partition_stays_while_it_has_a_session_within_the_retention(
    why: str, engine: Engine, admin: Admin, clock: ManualClock, partition: Partition
) -> None:
    lifetime = KEPT - DAY if why == "in the history" else 2 * KEPT
    idle_timeout = DAY if why == "live but idle once" else None
    now = START + KEPT + 2 * SPAN
    session = made_at(START, lifetime=lifetime, idle_timeout=idle_timeout)
    await engine.add(session, made_at(START))
    await engine.sessions.touch([Touch(session.session_id, now, None)], lambda: START)
    oldest = names(admin)[0]
    clock.advance(now - START)
    if why != "live but idle once":  # the worker would postpone its next check
        await Expire(engine.upkeep, clock)()
    await partition()
    assert oldest in names(admin)
    assert session.session_id in await engine.sessions.read_sessions([session.session_id])
    # The rest of the partition is deleted row by row.
    await Purge(engine.upkeep, clock, POLICY)()
    assert admin.execute(f"SELECT count(*) FROM {oldest}".encode()).fetchone() == (1,)


async def test_a_partition_is_dropped_even_if_the_worker_recorded_no_expiry(
    engine: Engine, admin: Admin, clock: ManualClock, partition: Partition
) -> None:
    await engine.add(made_at(START, lifetime=DAY))
    oldest = names(admin)[0]
    clock.advance(KEPT + 2 * SPAN)
    await partition()
    assert oldest not in names(admin, TABLES)


async def test_a_session_that_ended_early_is_purged_without_its_partition(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.add(made_at(START, lifetime=DAY))
    await pass_time(engine, clock, POLICY.history_retention + 2 * DAY)
    assert await Purge(engine.upkeep, clock, POLICY)() == 1


async def test_the_half_finished_work_of_a_killed_worker_is_completed(
    engine: Engine, admin: Admin, clock: ManualClock, partition: Partition, url: str
) -> None:
    await engine.add(made_at(START))
    await pass_time(engine, clock, KEPT + SPAN)
    oldest, next_oldest, *_ = names(admin)
    admin.execute(f"ALTER TABLE sessions DETACH PARTITION {oldest}".encode())
    # DETACH PARTITION waits for the open transaction of a reader, until it is interrupted.
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM sessions")
        admin.execute("SET statement_timeout = 100")
        with pytest.raises(psycopg.errors.QueryCanceled):
            admin.execute(
                f"ALTER TABLE sessions DETACH PARTITION {next_oldest} CONCURRENTLY".encode()
            )
    admin.execute("RESET statement_timeout")
    await partition()
    assert {oldest, next_oldest}.isdisjoint(names(admin, TABLES))


async def test_two_workers_drop_a_partition_once(
    engine: Engine, clock: ManualClock, admin: Admin, partition: Partition
) -> None:
    await engine.add(made_at(START))
    await pass_time(engine, clock, KEPT + SPAN)
    await asyncio.gather(*(partition() for _ in range(4)))
    assert await partition() == 0
    assert "sessions_until_20260308" not in names(admin, TABLES)


def test_an_operator_chooses_partitions_when_creating_the_schema(tmp_path: Path) -> None:
    with postgresql.fresh_database() as url:
        settings = {"SESSION_AUTHORITY_DATABASE_URL": url}
        command = ("migrate", "--partition-days", "7")
        assert run(*command, cwd=tmp_path, settings=settings).returncode == 0
        refused = run(*command, cwd=tmp_path, settings=settings)
        assert refused.returncode == 1
        assert "can only be chosen when a schema is created" in refused.stderr
        assert run("migrate", "--check", cwd=tmp_path, settings=settings).returncode == 0
        with serving(tmp_path, settings=settings) as server:
            with SessionClient(server.address) as client:
                new = client.create("ann")
                assert client.validate(new.token)
                client.sign_out(new.token)
                assert not client.validate(new.token)
            assert server.stop() == 0
        with running("worker", "--once", cwd=tmp_path, settings=settings) as worker:
            assert worker.exit_code() == 0
            assert "partition: 0 rows" in worker.stdout


def test_the_sql_can_be_printed_with_partitions(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_DATABASE_URL": "postgresql://someone@127.0.0.1:1/nothing"}
    printed = run("migrate", "--sql", "--partition-days", "7", cwd=tmp_path, settings=settings)
    assert "PARTITION BY RANGE (session_id)" in printed.stdout
    assert printed.stdout.count("ATTACH PARTITION") >= 5
    assert "FROM (MINVALUE)" in printed.stdout


def test_sqlite_has_no_partitions(tmp_path: Path) -> None:
    refused = run("migrate", "--partition-days", "7", cwd=tmp_path)
    assert refused.returncode == 2
    assert "is for PostgreSQL" in refused.stderr
