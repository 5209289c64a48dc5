"""Failures of PostgreSQL: callers get an error in time, no answered write is lost, and the service recovers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from tests.support import postgresql
from tests.support.engines import migrated_postgresql
from tests.support.ledger import (
    DEADLINE_SECONDS,
    LATE,
    RECOVERY_SECONDS,
    UNAVAILABLE,
    Calls,
    calling,
    settings,
    under_load,
)
from tests.support.postgresql import Cluster
from tests.support.program import Program, run, serving
from tests.support.waiting import wait_until

SILENCE_SECONDS = 6.0


async def failure_of(call: Awaitable[object]) -> grpc.StatusCode:
    """Return the status code of a call that must fail before its deadline or soon after it."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(call, 4 * DEADLINE_SECONDS)
    if failed.value.code() is UNAVAILABLE:
        assert (failed.value.details() or "").startswith("the store is not available")
    return failed.value.code()


@pytest.fixture
def url() -> Iterator[str]:
    with migrated_postgresql() as address:
        yield address


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[Program]:
    """Run a server on a separate database. No test may stop it."""
    with serving(tmp_path, settings=settings(url)) as program:
        yield program
        assert program.process.poll() is None
        assert program.stop() == 0
        assert [line for line in program.stderr.splitlines() if "Traceback" in line] == []


@pytest.fixture
async def calls(server: Program) -> AsyncIterator[Calls]:
    async with calling(server) as made:
        yield made


@pytest.fixture
def admin(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A separate connection to the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


Admin = psycopg.Connection[tuple[object, ...]]


# Locks, full disks and read-only databases


async def test_a_lock_on_a_user_delays_only_that_user(calls: Calls, admin: Admin) -> None:
    mine = await calls.create("ada")
    with admin.transaction():
        admin.execute("SELECT FROM users WHERE user_id = 'ada' FOR UPDATE")
        waiting = asyncio.create_task(failure_of(calls.create("ada")))
        await calls.create("bob")
        assert (await calls.validate(mine.session_token)).HasField("session")
        assert await waiting is UNAVAILABLE
    await calls.create("ada")


async def test_if_blocked_writes_take_all_connections_they_fail_in_time_and_reads_continue(
    calls: Calls, admin: Admin
) -> None:
    mine = await calls.create("ada")
    with admin.transaction():
        admin.execute("SELECT FROM users WHERE user_id = 'ada' FOR UPDATE")
        waiting = [asyncio.create_task(failure_of(calls.create("ada"))) for _ in range(40)]
        while not all(task.done() for task in waiting):
            assert (await calls.validate(mine.session_token)).HasField("session")
            await asyncio.sleep(0.05)
        outcomes = [task.result() for task in waiting]
    assert set(outcomes) <= {UNAVAILABLE, LATE}
    assert outcomes.count(UNAVAILABLE) >= 20
    await wait_until_recovered(lambda: calls.create("ada"))


async def test_a_locked_table_delays_no_call_beyond_its_deadline(
    calls: Calls, admin: Admin
) -> None:
    mine = await calls.create("ada")
    with admin.transaction():
        admin.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        outcomes = await asyncio.gather(
            *(failure_of(calls.validate(mine.session_token)) for _ in range(20)),
            *(failure_of(calls.create("ada")) for _ in range(20)),
        )
    assert set(outcomes) <= {UNAVAILABLE, LATE}
    await wait_until_recovered(lambda: calls.validate(mine.session_token))
    await wait_until_recovered(lambda: calls.create("ada"))


async def wait_until_recovered(call: Callable[[], Awaitable[object]]) -> None:
    """Wait until calls succeed again, and fail if that takes too long."""
    give_up = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.code() is not UNAVAILABLE or time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def test_with_a_full_disk_writes_fail_and_reads_continue(calls: Calls, admin: Admin) -> None:
    mine = await calls.create("ada")
    admin.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; "
        "END $$; CREATE TRIGGER full_disk BEFORE INSERT ON sessions "
        "FOR EACH ROW EXECUTE FUNCTION full_disk()"
    )
    assert await failure_of(calls.create("ada")) is UNAVAILABLE
    assert (await calls.validate(mine.session_token)).HasField("session")
    admin.execute("DROP TRIGGER full_disk ON sessions")
    await calls.create("ada")


async def test_a_database_that_becomes_read_only_serves_no_call(
    calls: Calls, admin: Admin, server: Program
) -> None:
    mine = await calls.create("ada")
    database = admin.info.dbname
    admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on".encode())
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    for _ in range(3):  # first the terminated connections, then new ones
        assert await failure_of(calls.create("ada")) is UNAVAILABLE
        assert await failure_of(calls.validate(mine.session_token)) is UNAVAILABLE
    assert "read-only" in server.stderr
    admin.execute("SET transaction_read_only = off")
    admin.execute("SET default_transaction_read_only = off")
    admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only".encode())
    await wait_until_recovered(lambda: calls.validate(mine.session_token))
    await wait_until_recovered(lambda: calls.create("ada"))


# Refusing to start


SECRET = "tr0ub4dor-p"


def refusal(url: str, folder: Path, *command: str) -> str:
    """Run a command that must fail. Check that its error is one line without the password, and return the line."""
    started = time.monotonic()
    done = run(*command, cwd=folder, settings=settings(url))
    assert time.monotonic() - started < 55  # a limit that also holds on a busy machine
    assert done.returncode == 1
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for said in (done.stdout, done.stderr):
        assert SECRET not in said
        assert "Traceback" not in said
    return line


SERVE = ("serve", "--listen", "127.0.0.1:0")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """Run a server that requires a password from the role app."""
    with postgresql.cluster() as server:
        server.psql("CREATE ROLE app LOGIN PASSWORD 'another'")
        rules = server.folder / "data" / "pg_hba.conf"
        rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.psql("SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize("command", [SERVE, ("worker", "--once"), ("migrate",)])
def test_a_wrong_password_is_refused_in_one_line(
    guarded: Cluster, tmp_path: Path, command: tuple[str, ...]
) -> None:
    url = f"postgresql://app:{SECRET}@127.0.0.1:{guarded.port}/postgres"
    line = refusal(url, tmp_path, *command)
    assert f"postgresql://127.0.0.1:{guarded.port}/postgres can't be used" in line
    assert 'password authentication failed for user "app"' in line


def test_an_unreachable_server_is_reported_in_one_line(tmp_path: Path) -> None:
    url = f"postgresql://app:{SECRET}@127.0.0.1:{postgresql.free_port()}/postgres"
    assert "Connection refused" in refusal(url, tmp_path, *SERVE)


@pytest.mark.parametrize(
    "rest",
    [
        f"app:{SECRET}@127.0.0.1:port/postgres",
        f"app:{SECRET}@@127.0.0.1:1/postgres",
        f"app:{SECRET}/@127.0.0.1:1/postgres",
        f"app:{SECRET}/postgres",
        f"app:{SECRET}%40127.0.0.1:1/postgres",
        f"app:s@{SECRET}@127.0.0.1:1/postgres",
        f"127.0.0.1:1/postgres?user=app&password={SECRET}",
        f"127.0.0.1:1/postgres?user=app&password=@{SECRET}",
        f"127.0.0.1:1/postgres?passwort={SECRET}",
    ],
)
def test_no_part_of_a_password_is_shown_in_any_form_of_url(tmp_path: Path, rest: str) -> None:
    refusal(f"postgresql://{rest}", tmp_path, *SERVE)


def test_missing_grants_or_tables_are_reported_at_startup(guarded: Cluster, tmp_path: Path) -> None:
    assert run("migrate", cwd=tmp_path, settings=settings(guarded.url())).returncode == 0
    guarded.psql("CREATE ROLE clerk LOGIN")
    guarded.psql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO clerk")
    guarded.psql("GRANT INSERT, UPDATE ON users TO clerk")
    url = f"postgresql://clerk:{SECRET}@127.0.0.1:{guarded.port}/postgres"
    for command in (SERVE, ("migrate", "--check")):
        line = refusal(url, tmp_path, *command)
        assert "its role may not INSERT in the table ending_marks" in line

    guarded.psql("GRANT INSERT, UPDATE, DELETE ON ending_marks, outbox TO clerk")
    assert "may not INSERT in the table sessions" in refusal(url, tmp_path, *SERVE)
    guarded.psql("GRANT INSERT, UPDATE ON sessions TO clerk")
    check = run("migrate", "--check", cwd=tmp_path, settings=settings(url))
    assert check.returncode == 0, check.stderr
    guarded.psql("ALTER TABLE sweeps RENAME TO lost")
    for command in (SERVE, ("migrate", "--check")):
        assert "the table sweeps is missing" in refusal(url, tmp_path, *command)


# A standby that does not answer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a separate cluster, which tests may freeze, crash, or configure to wait for a standby."""
    with postgresql.cluster() as made:
        folder = tmp_path_factory.mktemp("made")
        assert run("migrate", cwd=folder, settings=settings(made.url())).returncode == 0
        # With this default, sessions would miss the warning about an unconfirmed commit.
        made.psql("ALTER DATABASE postgres SET client_min_messages = error")
        yield made


@pytest.fixture
def program(cluster: Cluster, tmp_path: Path) -> Iterator[Program]:
    """Run a server on that database."""
    with serving(tmp_path, "--no-worker", settings=settings(cluster.url())) as served:
        yield served
        assert served.stop() == 0
        assert "Traceback" not in served.stderr


def _wait_for_standby(cluster: Cluster, names: str) -> None:
    cluster.psql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    cluster.psql("SELECT pg_reload_conf()")
    wait_until(lambda: cluster.psql("SHOW synchronous_standby_names") == names)
    time.sleep(0.3)  # until every connection has read the new setting


CANCEL_WAITS = (
    "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
)


async def test_a_commit_without_confirmation_by_a_standby_is_an_error(
    cluster: Cluster, program: Program
) -> None:
    async with calling(program) as calls:
        mine = await calls.create("ada")
        other = await calls.create("ada")
        _wait_for_standby(cluster, "absent")
        for call in (
            calls.create("bob"),
            calls.revoke(mine.session_token, other.session.session_id),
        ):
            waiting = asyncio.create_task(failure_of(call))
            while await asyncio.to_thread(cluster.psql, CANCEL_WAITS) == "0":
                assert not waiting.done()
            assert await waiting is UNAVAILABLE
        assert "not confirmed by the synchronous standby" in program.stderr
        _wait_for_standby(cluster, "")
        await calls.create("bob")
        assert (await calls.validate(mine.session_token)).HasField("session")


async def test_a_repeated_sign_out_fails_until_a_standby_has_confirmed_the_first_one(
    cluster: Cluster, program: Program
) -> None:
    async with calling(program) as calls:
        mine = await calls.create("ada")
        _wait_for_standby(cluster, "absent")
        for _ in range(2):
            assert await failure_of(calls.sign_out(mine.session_token)) in {UNAVAILABLE, LATE}
        _wait_for_standby(cluster, "")
        await calls.sign_out(mine.session_token)
        assert (await calls.validate(mine.session_token)).HasField("rejection")


async def test_an_absent_standby_delays_no_call_beyond_its_deadline(
    cluster: Cluster, program: Program
) -> None:
    async with calling(program) as calls:
        mine = await calls.create("ada")
        _wait_for_standby(cluster, "absent")
        outcomes = await asyncio.gather(*(failure_of(calls.create("bob")) for _ in range(30)))
        assert set(outcomes) <= {UNAVAILABLE, LATE}
        assert (await calls.validate(mine.session_token)).HasField("session")
        assert await asyncio.to_thread(program.stop) == 0
    _wait_for_standby(cluster, "")


# A crash


async def test_the_service_recovers_from_a_crash_under_load_without_losing_answered_writes(
    cluster: Cluster, program: Program
) -> None:
    async with calling(program) as calls, under_load(calls) as ledger:
        await asyncio.sleep(0.7)
        await ledger.fails(asyncio.to_thread(cluster.stop, at_once=True))
        await asyncio.to_thread(cluster.start)
        await ledger.passes(back=time.monotonic())


# Silence


async def test_a_silent_database_delays_no_call_beyond_its_deadline_and_loses_nothing(
    cluster: Cluster, program: Program
) -> None:
    async with calling(program) as calls, under_load(calls) as ledger:
        await asyncio.sleep(0.7)
        with cluster.frozen():
            await asyncio.sleep(SILENCE_SECONDS)
            assert ledger.failures
        await ledger.passes(back=time.monotonic())
        assert ledger.slowest < 2 * DEADLINE_SECONDS
