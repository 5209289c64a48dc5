"""The audit log of real processes: rotation, sharing, draining, and no secrets."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from session_authority import SessionClient
from tests.support.engines import migrated_postgresql
from tests.support.program import run, run_process, running, serving

LOG = {"SESSION_AUTHORITY_AUDIT_LOG": "audit.jsonl"}


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def of_sessions(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the events of each session, in order."""
    logged: dict[str, list[str]] = {}
    for line in lines:
        logged.setdefault(line["session_id"], []).append(line["event"])
    return logged


def test_a_log_rotated_under_load_loses_no_line_and_a_stop_drains_it(
    tmp_path: Path,
) -> None:
    made: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def live(address: str, number: int) -> None:
        with SessionClient(address) as client:
            while not stop.is_set():
                new = client.create(f"user-{number}")
                made.append(new.session.session_id)
                client.sign_out(new.token)
                if len(made) >= 400:
                    enough.set()

    log = tmp_path / "audit.jsonl"
    rotated = [tmp_path / f"audit.jsonl.{number}" for number in range(4)]
    with serving(tmp_path, settings=LOG) as server, ThreadPoolExecutor(4) as pool:
        living = [pool.submit(live, server.address, number) for number in range(4)]
        try:
            for number, old in enumerate(rotated):
                while len(made) < 80 * (number + 1):
                    assert not any(each.done() for each in living)
                    enough.wait(0.005)
                log.rename(old)
            assert enough.wait(30)
        finally:
            stop.set()
        for each in living:
            each.result()
        assert server.stop() == 0
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (log, *rotated))
    logged = of_sessions(lines_of(*rotated, log))
    assert set(logged) == set(made)
    for events in logged.values():
        assert events == ["session-established", "session-ended"]


def test_a_worker_logs_its_endings_on_standard_output(tmp_path: Path) -> None:
    output = {"SESSION_AUTHORITY_AUDIT_LOG": "-"}
    with (
        serving(tmp_path, "--no-worker", settings=LOG) as server,
        SessionClient(server.address) as client,
    ):
        swept, asking = client.create("ada"), client.create("ada")
        client.revoke_others(asking.token)
        done = run_process("worker", "--once", cwd=tmp_path, settings=output)
        assert done.returncode == 0, done.stderr
        again = run_process("worker", "--once", cwd=tmp_path, settings=output)
    logged = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["session_id"] for line in logged] == [swept.session.session_id]
    assert logged[0]["initiating_entity"] == "user"
    assert "{" not in again.stdout


def test_several_processes_log_on_the_standard_output_of_their_parent(tmp_path: Path) -> None:
    with migrated_postgresql() as url:
        settings = {
            "SESSION_AUTHORITY_DATABASE_URL": url,
            "SESSION_AUTHORITY_AUDIT_LOG": "stdout",
            "SESSION_AUTHORITY_PROCESSES": "2",
        }
        command = ("serve", "--listen", "127.0.0.1:0", "--insecure")
        with running(*command, cwd=tmp_path, settings=settings) as it:
            with SessionClient(it.address) as client:
                made = [client.create("ada") for _ in range(20)]
                for new in made:
                    client.sign_out(new.token)
            assert it.stop() == 0
            logged = [json.loads(line) for line in it.stdout.splitlines() if line.startswith("{")]
    assert len(logged) == 40
    for new in made:
        assert sorted(of_sessions(logged)[new.session.session_id]) == [
            "session-ended",
            "session-established",
        ]


def test_an_unread_standard_output_delays_no_call_and_no_stop(tmp_path: Path) -> None:
    """The pipe is full from the start, as if its reader hangs."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    script = (
        "import os, sys, asyncio\n"
        "from functools import partialmethod\n"
        "from session_authority_server.app.serving import ServeOptions, serving\n"
        "from session_authority_server.audit import log\n"
        "log.ROOM_SECONDS = 0.5\n"
        "log.AuditLog.close = partialmethod(log.AuditLog.close, 0.5)\n"
        "from session_authority_server.config import Settings\n"
        "from session_authority import AsyncSessionClient\n"
        "async def main():\n"
        "    settings = Settings(listen='127.0.0.1:0', audit_log='-')\n"
        "    options = ServeOptions(insecure=True, standard_output=int(sys.argv[1]))\n"
        "    async with serving(settings, options) as served:\n"
        "        async with AsyncSessionClient(served.address) as client:\n"
        "            for _ in range(50):\n"
        "                await client.sign_out((await client.create('ada')).token)\n"
        "    print('done')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(writing)],
        cwd=tmp_path,
        pass_fds=(writing,),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(reading)
    os.close(writing)
    assert "done" in done.stdout, done.stderr
    assert "could not be written at shutdown" in done.stderr


def test_keys_are_logged_and_standard_output_has_only_a_new_key(tmp_path: Path) -> None:
    def keys(*arguments: str, log: str = "audit.jsonl") -> subprocess.CompletedProcess[str]:
        how = run_process if log == "-" else run
        done = how("keys", *arguments, cwd=tmp_path, settings={"SESSION_AUTHORITY_AUDIT_LOG": log})
        assert done.returncode == 0, done.stderr
        return done

    with serving(tmp_path, settings=LOG, asking_for_keys=True) as server:
        create = ("create", "shop", "--permission", "create")
        made = [keys(*create).stdout]
        ids = {each["name"]: each["key_id"] for each in json.loads(keys("list", "--json").stdout)}
        made.append(keys("rotate", ids["shop"]).stdout)
        for _ in range(2):
            keys("revoke", ids["shop"])
        beside = keys(*create, log="-")
        assert server.stop() == 0
    content = (tmp_path / "audit.jsonl").read_text()
    logged = [(line["event"], line["key_id"]) for line in lines_of(tmp_path / "audit.jsonl")]
    assert logged[:2] == [
        ("api-key-created", ids["development"]),
        ("api-key-created", ids["shop"]),
    ]
    assert [event for event, _ in logged[2:]] == [
        "api-key-created",
        "api-key-expiry-set",
        "api-key-revoked",
    ]
    assert logged[3][1] == logged[4][1] == ids["shop"] != logged[2][1]
    assert not [key for key in made if key[4:].strip() in content]
    assert beside.stdout.startswith("sak_")
    assert len(beside.stdout.splitlines()) == 1
    assert '"api-key-created"' in beside.stderr


@pytest.mark.parametrize("path", ["missing/audit.jsonl", "."])
def test_a_log_that_cannot_be_written_is_reported_at_the_start(path: str, tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path, settings={"SESSION_AUTHORITY_AUDIT_LOG": path})
    assert done.returncode == 1
    assert "SESSION_AUTHORITY_AUDIT_LOG" in done.stderr
    assert "Traceback" not in done.stderr
