"""An operator backs a database up, restores it, and deals with the endings that it lost."""

import json
import re
from pathlib import Path

import psycopg
import pytest

from session_authority import NewSession, SessionClient, Unavailable
from tests.support.engines import migrated_postgresql
from tests.support.program import DATABASE, Program, run, serving
from tests.support.waiting import wait_until

AUDITED = {"SESSION_AUTHORITY_AUDIT_LOG": "audit.jsonl"}


def is_serving(server: Program) -> bool:
    return run("health", "--listen", server.address, cwd=Path()).returncode == 0


def is_lost(client: SessionClient, new: NewSession) -> bool:
    try:
        client.validate(new.token)
    except Unavailable as error:
        return error.reason == "ENDINGS_LOST"
    return False


@pytest.mark.parametrize(
    ("choice", "accepted"), [("--accept", [True, True]), ("--end-all", [False, False])]
)
def test_an_operator_resolves_the_fence_of_a_restored_file(
    tmp_path: Path, choice: str, accepted: list[bool]
) -> None:
    with serving(tmp_path, settings=AUDITED) as server, SessionClient(server.address) as client:
        both = [client.create("ann"), client.create("bob")]
        assert run("backup", "copy", cwd=tmp_path).returncode == 0
        client.sign_out(both[0].token)
        assert server.stop() == 0
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    for name in (DATABASE, DATABASE + "-wal", DATABASE + "-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "copy").rename(tmp_path / DATABASE)

    with serving(tmp_path, settings=AUDITED) as server, SessionClient(server.address) as client:
        assert all(is_lost(client, each) for each in both)
        assert not is_serving(server)
        shown = run("fence", cwd=tmp_path)
        assert shown.returncode == 1
        assert "Acknowledged endings are missing from the database: at least 1." in shown.stdout

        done = run("fence", choice, "--yes", cwd=tmp_path, settings=AUDITED)

        assert done.returncode == 0, done.stderr
        wait_until(lambda: is_serving(server))
        assert [bool(client.validate(each.token)) for each in both] == accepted
        assert run("fence", cwd=tmp_path).returncode == 0
        assert server.stop() == 0
        assert len(re.findall("run: session-authority fence", server.stderr)) == 1
    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    [resolved] = [each for each in events if each["event"] == "fence-resolved"]
    assert (resolved["choice"], resolved["lost_endings"]) == (choice[2:], 1)


def test_a_server_that_notices_a_loss_stops_all_servers(tmp_path: Path) -> None:
    with migrated_postgresql() as url:

        def given(state: str) -> dict[str, str]:
            return {
                "SESSION_AUTHORITY_DATABASE_URL": url,
                "SESSION_AUTHORITY_STATE_DIRECTORY": state,
            }

        with (
            serving(tmp_path, settings=given("one")) as one,
            serving(tmp_path, "--processes", "2", settings=given("two")) as two,
            SessionClient(one.address) as client,
            SessionClient(two.address) as other,
        ):
            new = client.create("ann")
            client.sign_out(client.create("ann").token)
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("DELETE FROM ending_marks")
            wait_until(lambda: is_lost(client, new) and is_lost(other, new))
            assert (
                run("fence", "--accept", "--yes", cwd=tmp_path, settings=given("")).returncode == 0
            )
            wait_until(lambda: not is_lost(client, new) and not is_lost(other, new))
            assert client.validate(new.token)
            assert other.validate(new.token)


def test_what_cannot_be_backed_up_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        done = run("backup", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        return done.stderr

    assert "there is no database" in refused("copy")
    (tmp_path / DATABASE).touch()
    assert "run: session-authority migrate" in refused("copy")
    assert run("migrate", cwd=tmp_path).returncode == 0
    assert run("backup", "copy", cwd=tmp_path).returncode == 0
    assert "copy exists already" in refused("copy")
    assert "can't be written: File name too long" in refused("a" * 256)
    assert "pg_basebackup" in refused("copy2", "--database-url", "postgresql://127.0.0.1/x")
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"copy", DATABASE}


def test_a_replay_of_an_incomplete_log_leaves_the_fence_closed(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text(
        '{"event_timestamp":1,"event":"api-key-created"}\n{"event_timestamp":2,"event":"sess'
    )
    empty = tmp_path / "container.json"
    empty.write_text('{"log":"{\\"event_timestamp\\":1,"}')
    assert run("migrate", cwd=tmp_path).returncode == 0
    done = run("fence", "--replay", str(log), cwd=tmp_path)
    assert done.returncode == 1
    assert "damaged lines: 1" in done.stderr
    done = run("fence", "--replay", str(empty), cwd=tmp_path)
    assert done.returncode == 1
    assert "has no event" in done.stderr
    assert run("fence", "--accept", "--end-all", cwd=tmp_path).returncode == 2
