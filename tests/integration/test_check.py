"""`session-authority check` on both engines."""

import asyncio
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from session_authority import SessionClient
from session_authority_server.app import development_key
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import ManualClock, SystemClock
from session_authority_server.store import schema
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.usecases.api_keys import ApiKeys
from tests.support import postgresql
from tests.support.certificates import TestAuthority
from tests.support.postgresql import Cluster
from tests.support.program import run, serving
from tests.support.waiting import wait_until

FILE = "session-authority.sqlite"
PASSWORD = "not-to-be-shown"
USER = "ann@example.com"  # not a part of any word in the output, as "ann" is of "channel"

STRICT_POLICY = {
    "SESSION_AUTHORITY_ABSOLUTE_LIFETIME_SECONDS": "43200",
    "SESSION_AUTHORITY_IDLE_TIMEOUT_SECONDS": "900",
    "SESSION_AUTHORITY_MAX_AUTHENTICATION_AGE_SECONDS": "600",
}


def check(
    cwd: Path, *options: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = run("check", *options, cwd=cwd, settings=settings)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def report(
    cwd: Path, *options: str, settings: Mapping[str, str] | None = None, status: int = 0
) -> dict[str, Any]:
    """Return the JSON report of a check, and assert its exit status."""
    done = check(cwd, "--json", *options, settings=settings)
    assert done.stderr == ""
    said: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, said["status"]) == (status, status), done.stdout
    return said


def verdicts(said: dict[str, Any]) -> dict[str, str]:
    return {each["id"]: each["verdict"] for each in said["requirements"]}


def warnings(said: dict[str, Any]) -> set[str]:
    return {each["name"] for each in said["warnings"]}


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line of a check that cannot run."""
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def of(url: str) -> dict[str, str]:
    return {"SESSION_AUTHORITY_DATABASE_URL": url}


# On SQLite


async def _create_database(path: Path) -> None:
    """Create a database file and its development key, as the first server does."""
    path.touch(mode=0o600)
    database = Database.sqlite(path)
    try:
        await schema.migrate(database)
        await development_key.make(path, SqlKeyStore(database), SystemClock().now())
    finally:
        await database.close()


def test_check_beside_a_running_server_reports_everything_and_changes_nothing(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, asking_for_keys=True) as server:
        key = (tmp_path / f"{FILE}.key").read_text().strip()
        with SessionClient(server.address, api_key=key) as client:
            new = client.create(USER, ip_address="203.0.113.7")
            said = report(tmp_path)
            # This session keeps the limits that it began under.
            shorter = verdicts(report(tmp_path, "--aal", "3", settings=STRICT_POLICY, status=1))
            assert client.validate(new.token)
            client.sign_out(new.token)
        assert warnings(said) >= {"development-key", "key-without-expiry", "no-audit-log"}
        for requirement in ("7.3.1", "7.3.2", "2.3.3-12-hours", "2.3.3-idle"):
            assert shorter[requirement] == "not_met"
        assert said["warnings"][0]["about"] != ""
        table = check(tmp_path)
        assert table.returncode == 0
        assert server.stop() == 0
        assert server.stderr.count("locked") == 0
    for shown in (json.dumps(said), table.stdout):
        for secret in (key, new.token.reveal(), USER, "203.0.113.7"):
            assert secret not in shown


def test_check_reads_the_files_that_a_crashed_server_left(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as server:
        server.kill()
    assert (tmp_path / f"{FILE}-wal").stat().st_size > 0
    assert "development-key" in warnings(report(tmp_path))


@pytest.mark.parametrize("columns", [60, 200])
def test_the_text_begins_with_the_outcome_and_fits_the_terminal(
    tmp_path: Path, columns: int
) -> None:
    asyncio.run(_create_database(tmp_path / FILE))
    settings = {"COLUMNS": str(columns)}
    ids = [each["id"] for each in report(tmp_path)["requirements"]]
    for options, outcome, failing in (
        ((), "ASVS level 1, AAL1: all that is required is met or the app's duty", []),
        (("--level", "2"), "ASVS level 2, AAL1: not met: 7.3.1, 7.5.2", ["7.3.1", "7.5.2"]),
    ):
        short = check(tmp_path, *options, settings=settings).stdout
        full = check(tmp_path, *options, "--all", settings=settings).stdout
        for shown, named in ((short, failing), (full, failing + ids)):
            assert max(map(len, shown.splitlines())) <= columns
            parts = ("Sessions in", outcome, f"{len(ids)} requirements:", "[development-key]")
            places = [" ".join(shown.split()).index(part) for part in parts]
            assert places == sorted(places)
            found = re.findall(r"(?m)^(\d+\.\S+)", shown.partition(" requirements:")[2])
            assert found == named
        assert "For every requirement, add --all." in short
    full = " ".join(full.split())
    assert "Setting: SESSION_AUTHORITY_ABSOLUTE_LIFETIME_SECONDS" in full
    assert "not met, justified" in full
    assert "Why 90 days: A session lives up to 90 days" in full


def test_the_exit_status_depends_on_the_required_checks(tmp_path: Path) -> None:
    asyncio.run(_create_database(tmp_path / FILE))
    for options, settings, status in (
        (("--strict",), {}, 1),
        (("--level", "2", "--accept", "7.3.1", "--accept", "7.5.2"), {}, 0),
        (("--level", "3", "--aal", "3"), STRICT_POLICY, 0),
        (("--listen", "0.0.0.0:50551"), {}, 1),
        (("--listen", "0.0.0.0:50551", "--allow-plaintext"), {}, 0),
    ):
        done = check(tmp_path, *options, settings=settings)
        assert done.returncode == status, (options, done.stdout)
    shown = check(tmp_path, "--level", "2").stdout
    assert "ASVS level 2, AAL1: not met: 7.3.1, 7.5.2" in shown
    assert "insecure" in warnings(report(tmp_path, "--insecure"))


def test_files_that_others_can_read_are_named(tmp_path: Path) -> None:
    asyncio.run(_create_database(tmp_path / FILE))
    assert "open-file" not in warnings(report(tmp_path))
    for name in (FILE, f"{FILE}.key"):
        (tmp_path / name).chmod(0o644)
    said = report(tmp_path)
    named = {each["about"] for each in said["warnings"] if each["name"] == "open-file"}
    # Also the files that SQLite creates beside it, with the same permissions.
    assert {Path(each).name for each in named} >= {FILE, f"{FILE}.key"}


def test_an_unusable_or_expired_certificate_protects_nothing(
    tmp_path: Path,
) -> None:
    asyncio.run(_create_database(tmp_path / FILE))
    authority = TestAuthority(tmp_path)
    pair = authority.pair()
    settings = {
        "SESSION_AUTHORITY_TLS_CERTIFICATE": str(pair.certificate),
        "SESSION_AUTHORITY_TLS_KEY": str(pair.key),
    }
    listen = ("--listen", "0.0.0.0:50551")
    assert verdicts(report(tmp_path, *listen, settings=settings))["5.1-channel"] == "met"
    pair.replace(authority.pair(expired=True))
    said = report(tmp_path, *listen, settings=settings, status=1)
    assert verdicts(said)["5.1-channel"] == "not_met"
    assert "certificate-not-valid" in warnings(said)
    pair.certificate.unlink()
    said = report(tmp_path, *listen, settings=settings, status=1)
    [channel] = [each for each in said["requirements"] if each["id"] == "5.1-channel"]
    assert channel["verdict"] == "not_met"
    assert f"{pair.certificate} can't be read: No such file" in channel["why"]


def test_an_old_schema_is_reported_with_the_other_findings(tmp_path: Path) -> None:
    assert run("migrate", cwd=tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("DROP TABLE api_key_uses")
        connection.execute("UPDATE alembic_version SET version_num = '0005'")
    connection.close()
    said = report(tmp_path, status=2)
    assert verdicts(said)["7.3.2"] == "met"
    [warning] = [each for each in said["warnings"] if each["name"] == "schema"]
    assert "its schema is 0005" in warning["why"]
    assert warning["remedy"] == "run: session-authority migrate"
    assert "could not be checked" in check(tmp_path).stdout


def test_an_unreadable_database_is_reported_in_one_line(tmp_path: Path) -> None:
    assert "there is no database" in refusal(check(tmp_path))
    assert not (tmp_path / FILE).exists()
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    assert "not a database" in refusal(check(tmp_path))
    assert "SESSION_AUTHORITY_SESSION_LIMIT" in refusal(
        check(tmp_path, settings={"SESSION_AUTHORITY_SESSION_LIMIT": "many"})
    )
    nowhere = f"postgresql://ann:{PASSWORD}@127.0.0.1:{postgresql.free_port()}/x"
    line = refusal(check(tmp_path, settings=of(nowhere)))
    assert "can't be used" in line
    assert PASSWORD not in line


def test_an_error_for_an_unknown_requirement_lists_the_known_ones(tmp_path: Path) -> None:
    done = check(tmp_path, "--accept", "7.9.9")
    assert done.returncode == 2
    assert "'7.5.2'" in done.stderr


# On PostgreSQL


@pytest.fixture(scope="module")
def durable() -> Iterator[Cluster]:
    """Run a server with every required setting, but without a standby."""
    with postgresql.cluster(fsync="on") as server:
        yield server


@pytest.fixture
def url(durable: Cluster, tmp_path: Path) -> Iterator[str]:
    """A database with the schema and a key for each purpose."""
    name = f"check_{tmp_path.name.replace('-', '_')}"[:60].lower()
    durable.psql(f'CREATE DATABASE "{name}"')
    url = durable.url(name)
    asyncio.run(
        _create_schema_and_keys(url, Permission.CREATE, Permission.MANAGE, Permission.TERMINATE)
    )
    yield url
    durable.psql(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _create_schema_and_keys(url: str, *permissions: Permission) -> None:
    """Create the schema, and for each permission a key that expires in 90 days."""
    database = Database.postgresql(url)
    try:
        await schema.migrate(database)
        api_keys = ApiKeys(SqlKeyStore(database), SystemClock())
        for each in permissions:
            await api_keys.create(each.value, frozenset([each]), timedelta(days=90))
    finally:
        await database.close()


def test_a_durable_database_without_a_standby_passes_with_a_warning(
    url: str, tmp_path: Path
) -> None:
    said = report(tmp_path, settings=of(url))
    assert verdicts(said)["7.4.1"] == "met"
    assert warnings(said) == {"no-standby", "no-state-directory", "no-audit-log"}
    assert said["database"] == url.replace("postgres@", "")


@pytest.mark.parametrize(
    ("setting", "warning", "verdict", "status"),
    [
        ("synchronous_commit = off", "not-durable", "not_met", 1),
        ("synchronous_commit = local", None, "met", 0),  # there is no standby to wait for
    ],
)
def test_check_reads_synchronous_commit_of_the_authoritys_own_connections(
    url: str, tmp_path: Path, setting: str, warning: str | None, verdict: str, status: int
) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" SET {setting}'.encode())
    said = report(tmp_path, settings=of(url), status=status)
    assert verdicts(said)["7.4.1"] == verdict
    assert (warning is None) or warning in warnings(said)


def test_a_server_that_does_not_write_to_its_disk_is_not_met(tmp_path: Path) -> None:
    with postgresql.fresh_database() as careless:
        asyncio.run(_create_schema_and_keys(careless))
        said = report(tmp_path, settings=of(careless), status=1)
    assert verdicts(said)["7.4.1"] == "not_met"
    assert {"not-durable", "no-keys"} <= warnings(said)
    assert "fsync is off" in json.dumps(said)


def test_a_standby_is_reported_as_a_standby(durable: Cluster, url: str, tmp_path: Path) -> None:
    try:
        with postgresql.standby(durable, "follower"):
            assert warnings(report(tmp_path, settings=of(url))) == {
                "no-state-directory",
                "no-audit-log",
            }
            with psycopg.connect(url, autocommit=True) as admin:
                name = url.rpartition("/")[2]
                admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = local'.encode())
            assert "weak-commit" in warnings(report(tmp_path, settings=of(url)))
            _wait_for_no_standby(durable)
            assert "asynchronous-standby" in warnings(report(tmp_path, settings=of(url)))
    finally:
        _wait_for_no_standby(durable)


def _wait_for_no_standby(server: Cluster) -> None:
    server.psql("ALTER SYSTEM RESET synchronous_standby_names")
    server.psql("SELECT pg_reload_conf()")
    wait_until(lambda: server.psql("SHOW synchronous_standby_names") == "")


def test_a_role_without_special_rights_can_run_check(
    durable: Cluster, url: str, tmp_path: Path
) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader LOGIN")
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    try:
        said = report(tmp_path, settings=of(url.replace("postgres@", "reader@")))
        assert verdicts(said)["7.4.2"] == "app_duty"
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("DROP OWNED BY reader")
            admin.execute("DROP ROLE reader")


def test_missing_partitions_and_overdue_work_are_reported(durable: Cluster, tmp_path: Path) -> None:
    durable.psql("CREATE DATABASE parted")
    url = durable.url("parted")
    try:
        made = run("migrate", "--partition-days", "7", cwd=tmp_path, settings=of(url))
        assert made.returncode == 0
        assert "partitions-missing" not in warnings(report(tmp_path, settings=of(url), status=1))
        names = durable.psql(
            "SELECT relname FROM pg_class WHERE relname ~ '^sessions_until_[0-9]{8}$' ORDER BY 1",
            "parted",
        ).split()
        for name in names[1:]:
            durable.psql(f"DROP TABLE {name}", "parted")
        durable.psql(
            f"INSERT INTO erasures VALUES ('x', 1, now() - interval '1 hour', '{USER}')",
            "parted",
        )
        said = report(tmp_path, settings=of(url), status=1)
        assert {"partitions-missing", "backlog"} <= warnings(said)
        assert "an erasure is incomplete" in json.dumps(said)
        assert USER not in json.dumps(said)
    finally:
        durable.psql("DROP DATABASE parted WITH (FORCE)")


def test_check_reports_the_permissions_that_a_key_did_not_use(url: str, tmp_path: Path) -> None:
    asyncio.run(_use_some_permissions(url, SystemClock().now() - timedelta(days=31)))
    said = report(tmp_path, settings=of(url))
    [warning] = [each for each in said["warnings"] if each["name"] == "unused-permission"]
    assert warning["why"].endswith(": validate")
    assert "(both)" in warning["about"]


async def _use_some_permissions(url: str, time: datetime) -> None:
    database = Database.postgresql(url)
    try:
        store = SqlKeyStore(database)
        both = frozenset([Permission.CREATE, Permission.VALIDATE])
        key, _ = await ApiKeys(store, ManualClock(time)).create("both", both, timedelta(days=90))
        for moment in (time, SystemClock().now()):
            await store.note_key_uses({(key.key_id, Permission.CREATE)}, moment)
    finally:
        await database.close()
