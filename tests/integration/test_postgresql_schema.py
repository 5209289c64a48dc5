"""PostgreSQL's tables and indexes suit the statements, and migrations create them once."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine

from session_authority_server.check.database_condition import read_last_check_time
from session_authority_server.domain.token import new_id
from session_authority_server.ports.store import Touch, Transaction
from session_authority_server.ports.upkeep import PendingSweep
from session_authority_server.store import schema
from session_authority_server.store.database import Database
from session_authority_server.store.engine.postgresql import PostgreSQL
from session_authority_server.store.engine.sqlite import Sqlite
from session_authority_server.store.tables import metadata
from tests.support import postgresql
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    at,
    ids,
    migrated_postgresql,
    opened,
    over,
)
from tests.support.postgresql import Cluster
from tests.support.program import run, running
from tests.support.waiting import wait_until

WANTED = ScriptDirectory.from_config(schema.configuration()).get_current_head()
USERS = 2_000
SESSIONS_A_USER = 5
ENDED_SECONDS = 2

Call = Callable[[Engine], Awaitable[object]]


def settings(url: str) -> dict[str, str]:
    return {"SESSION_AUTHORITY_DATABASE_URL": url}


# Which indexes are read


@pytest.fixture(scope="module")
def explained() -> Iterator[Cluster]:
    """Run a PostgreSQL server that logs the plan of each executed statement."""
    with postgresql.cluster(
        session_preload_libraries="auto_explain",
        log_min_messages="log",
        **{"auto_explain.log_min_duration": "0"},
    ) as server:
        asyncio.run(_fill(server.url()))
        server.psql("ANALYZE")
        yield server


async def _fill(url: str) -> None:
    database = Database.postgresql(url)
    try:
        await schema.migrate(database)
        engine = over(database)
        users = [f"user-{number}" for number in range(USERS)]
        sessions = [
            a_session(
                user_id, at=START + number * SECOND, session_id=new_id(START + number * SECOND)
            )
            for number in range(SESSIONS_A_USER)
            for user_id in users
        ]
        await engine.fill(sessions)
        ended = (
            "UPDATE sessions SET end_time = create_time, end_reason = 2, initiating_entity = 2 "
            f"WHERE extract(second FROM create_time) < {ENDED_SECONDS}"
        )
        await database.write(lambda connection: connection.exec_driver_sql(ended))
    finally:
        await database.close()


async def plans_of(server: Cluster, call: Call) -> str:
    """Return the plans of the statements that a call runs."""
    database = Database.postgresql(server.url())
    log = server.folder / "log"
    try:
        before = log.stat().st_size
        await call(over(database))
        return log.read_bytes()[before:].decode()
    finally:
        await database.close()


async def _lock(engine: Engine) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("user-7")
        await transaction.live_over_limit("user-7", START, keep=99)

    await engine.sessions.transact(work)


SEVENTH = new_id(START)
BY_KEY = "Index Scan using sessions_pkey on sessions"
BY_USER = "sessions_user_id_end_time_expire_time_idx"
LATER = START + 31 * DAY
STATEMENTS: dict[str, tuple[Call, str]] = {
    "validate one": (lambda engine: engine.sessions.read_sessions([SEVENTH]), BY_KEY),
    "validate many": (
        lambda engine: engine.sessions.read_sessions([new_id(START) for _ in range(64)]),
        "sessions_pkey",
    ),
    "list live": (lambda engine: engine.sessions.list_live("user-7", START, None, 50), BY_USER),
    "count live": (lambda engine: engine.sessions.count_live("user-7", START, 50), BY_USER),
    "list ended": (lambda engine: engine.sessions.list_ended("user-7", START, None, 50), BY_USER),
    "count towards the limit": (_lock, BY_USER),
    "touch": (
        lambda engine: engine.sessions.touch(
            [Touch(new_id(START), START + MINUTE, None) for _ in range(64)], lambda: START + MINUTE
        ),
        "sessions_pkey",
    ),
    "next overdue": (
        lambda engine: engine.upkeep.end_overdue(START + DAY, 500),
        "sessions_check_time_session_id_idx",
    ),
    "oldest overdue": (
        lambda engine: engine.upkeep.oldest_overdue(LATER),
        "sessions_check_time_session_id_idx",
    ),
    "how long live ones live": (
        lambda engine: read_last_check_time(engine.database, START),
        "sessions_check_time_session_id_idx",
    ),
    "end swept": (
        lambda engine: engine.upkeep.end_swept(PendingSweep("user-7", 0), START, None, 100),
        BY_USER,
    ),
    "next to purge": (
        lambda engine: engine.upkeep.purge_ended(START, 100),
        "sessions_end_time_idx",
    ),
}


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_each_statement_reads_an_index(explained: Cluster, statement: str) -> None:
    call, index = STATEMENTS[statement]
    plans = await plans_of(explained, call)
    assert index in plans
    assert "Seq Scan on sessions" not in plans
    assert "Seq Scan on users" not in plans


# The cost of a touch


async def test_touches_change_no_index(tmp_path: Path) -> None:
    chance = random.Random(3)
    async with opened("postgresql", tmp_path) as engine:
        sessions = [a_session(f"user-{number % 50}") for number in range(2_000)]
        await engine.fill(sessions)
        before = _updates(engine.url, "sessions", at_least=0)
        touched = 0
        for second in range(1, 41):
            now = START + second * SECOND
            due = chance.sample(ids(sessions), 60)
            touched += await engine.sessions.touch(
                [Touch(session_id, now, f"203.0.113.{second}") for session_id in due], at(now)
            )
        url = engine.url
    assert touched == 40 * 60
    updates, hot = _updates(url, "sessions", at_least=before[0] + touched)
    assert (updates - before[0], hot - before[1]) == (touched, touched)


def _updates(url: str, table: str, *, at_least: int) -> tuple[int, int]:
    """Return the number of updates in the statistics, and the number that changed no index."""
    asked = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s"
    with psycopg.connect(url, autocommit=True) as connection:

        def counts() -> tuple[int, int]:
            [(updates, hot)] = connection.execute(asked, [table]).fetchall()
            return updates, hot

        wait_until(lambda: counts()[0] >= at_least)
        return counts()


def test_frequently_updated_tables_have_free_space_and_early_autovacuum() -> None:
    with migrated_postgresql() as url, psycopg.connect(url) as connection:
        found: dict[str, list[str]] = dict(
            connection.execute(
                "SELECT relname, reloptions FROM pg_class WHERE relname IN ('sessions', 'users')"
            ).fetchall()
        )
    for table in ("sessions", "users"):
        names = {option.partition("=")[0] for option in found[table]}
        assert {
            "fillfactor",
            "autovacuum_vacuum_scale_factor",
            "autovacuum_analyze_scale_factor",
        } <= names


# Types


def test_columns_have_native_types_of_postgresql() -> None:
    with migrated_postgresql() as url, psycopg.connect(url) as connection:
        types: dict[str, str] = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = 'public' AND table_name = 'sessions'"
            ).fetchall()
        )
    assert types["session_id"] == "uuid"
    assert types["ip_address"] == types["last_ip_address"] == "inet"
    assert types["lifetime"] == types["idle_timeout"] == "interval"
    assert {types[name] for name in types if name.endswith("_time")} == {"timestamp with time zone"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_migrations_make_the_tables_that_the_statements_name(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as engine:
        dialect = engine.database.dialect
        assert isinstance(dialect, PostgreSQL | Sqlite)
        url = str(dialect.url)
        # The store's connections receive binary values. SQLAlchemy cannot read PostgreSQL's catalog in that form.
        plain = url.replace("postgresql:", "postgresql+psycopg:").replace("+aiosqlite", "")
        reflecting = create_engine(plain, poolclass=NullPool)
        with reflecting.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            differences = compare_metadata(context, metadata)
            # SQLite numbers rows without an identity.
            assert [each for each in differences if "Identity(" not in repr(each)] == []


# Migrating


@pytest.fixture
def empty() -> Iterator[str]:
    with postgresql.fresh_database() as url:
        yield url


def test_migrate_check_reports_missing_migrations(empty: str, tmp_path: Path) -> None:
    missing = run("migrate", "--check", cwd=tmp_path, settings=settings(empty))
    assert missing.returncode == 1
    assert missing.stdout == ""
    assert f"is missing, and this program needs {WANTED}" in missing.stderr
    assert "run: session-authority migrate" in missing.stderr

    assert run("migrate", cwd=tmp_path, settings=settings(empty)).returncode == 0
    current = run("migrate", "--check", cwd=tmp_path, settings=settings(empty))
    assert current.returncode == 0
    assert f"the schema is already {WANTED}" in current.stdout


def test_sql_is_printed_without_a_connection_and_creates_the_same_schema(
    empty: str, tmp_path: Path
) -> None:
    nowhere = settings("postgresql://someone@127.0.0.1:1/nothing")
    printed = run("migrate", "--sql", cwd=tmp_path, settings=nowhere)
    assert printed.returncode == 0
    assert "fillfactor = 80" in printed.stdout
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())
    check = run("migrate", "--check", cwd=tmp_path, settings=settings(empty))
    assert check.returncode == 0


def test_the_sql_for_sqlite_is_printed(tmp_path: Path) -> None:
    printed = run("migrate", "--sql", cwd=tmp_path)
    assert printed.returncode == 0
    assert "CREATE TABLE sessions" in printed.stdout
    assert list(tmp_path.iterdir()) == []


async def test_concurrent_migrations_create_the_schema_once(empty: str) -> None:
    databases = [Database.postgresql(empty) for _ in range(4)]
    try:
        before = await asyncio.gather(*map(schema.migrate, databases))
    finally:
        for database in databases:
            await database.close()
    assert sorted(before, key=str) == [WANTED, WANTED, WANTED, None]


async def _downgraded(url: str, version: str, sessions: int) -> None:
    """Bring a database with sessions to an older schema."""
    configuration = schema.configuration()

    def downgrade(connection: Connection) -> None:
        configuration.attributes["connection"] = connection
        command.downgrade(configuration, version)

    database = Database.postgresql(url)
    try:
        await schema.migrate(database)
        await over(database).fill([a_session(f"user-{number}") for number in range(sessions)])
        await database.run_sync(downgrade)
    finally:
        await database.close()


@pytest.mark.parametrize("remnant", [False, True], ids=["first try", "second try"])
def test_indexes_are_built_while_others_write(empty: str, tmp_path: Path, remnant: bool) -> None:
    asyncio.run(_downgraded(empty, "0002", 500))
    with psycopg.connect(empty) as writer, psycopg.connect(empty, autocommit=True) as other:
        if remnant:
            other.execute("SET statement_timeout = 50")
            writer.execute("UPDATE sessions SET last_ip_address = NULL")
            with pytest.raises(psycopg.errors.QueryCanceled):
                other.execute(
                    "CREATE INDEX CONCURRENTLY sessions_check_time_session_id_idx "
                    "ON sessions (check_time, session_id) WHERE end_time IS NULL"
                )
            writer.rollback()
        writer.execute(
            "UPDATE sessions SET last_ip_address = '203.0.113.9' WHERE user_id = 'user-7'"
        )
        with running("migrate", cwd=tmp_path, settings=settings(empty)) as migration:
            wait_until(
                lambda: other.execute("SELECT FROM pg_stat_progress_create_index").fetchall()
            )
            # The migration waits for the writer, and no other transaction waits for the migration.
            other.execute("SET lock_timeout = '1s'")
            other.execute("UPDATE sessions SET last_ip_address = NULL WHERE user_id = 'user-8'")
            writer.commit()
            assert migration.exit_code() == 0, migration.stderr
        assert not other.execute(
            "SELECT relname FROM pg_class JOIN pg_index ON oid = indexrelid WHERE NOT indisvalid"
        ).fetchall()
    check = run("migrate", "--check", cwd=tmp_path, settings=settings(empty))
    assert check.returncode == 0
    assert run("worker", "--once", cwd=tmp_path, settings=settings(empty)).returncode == 0


def test_concurrent_index_builds_do_not_wait_for_each_other(empty: str, tmp_path: Path) -> None:
    asyncio.run(_downgraded(empty, "0002", 500))
    with psycopg.connect(empty) as writer, psycopg.connect(empty, autocommit=True) as other:
        writer.execute("UPDATE sessions SET last_ip_address = NULL WHERE user_id = 'user-7'")
        with (
            running("migrate", cwd=tmp_path, settings=settings(empty)) as one,
            running("migrate", cwd=tmp_path, settings=settings(empty)) as two,
        ):
            wait_until(
                lambda: other.execute("SELECT FROM pg_stat_progress_create_index").fetchall()
            )
            time.sleep(1)  # until the other migration has requested the lock a few times
            writer.commit()
            assert (one.exit_code(), two.exit_code()) == (0, 0), one.stderr + two.stderr
            said = one.stdout + two.stdout
    assert said.count(f"went from 0002 to {WANTED}") == 1
    # The other migration gets the lock after the last revision, or between two revisions.
    assert len(re.findall(rf"went from 00(?!02)\d\d to {WANTED}|is already {WANTED}", said)) == 1


@pytest.mark.parametrize("words", [("serve", "--listen", "127.0.0.1:0"), ("worker", "--once")])
def test_an_error_about_a_missing_schema_names_the_command_to_run(
    empty: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = run(*words, cwd=tmp_path, settings=settings(empty))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "is missing" in line
    assert line.endswith("run: session-authority migrate")
