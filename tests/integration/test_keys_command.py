"""`session-authority keys` beside running servers."""

import asyncio
import json
import os
import pty
import re
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from session_authority import ApiKeyRejected, AsyncSessionClient, SessionClient, Unavailable
from session_authority_server.app import serving as app
from session_authority_server.background import keyring
from session_authority_server.config import load_settings
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import SystemClock
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.schema import migrate
from session_authority_server.usecases.api_keys import ApiKeys
from tests.support.authority import PATIENCE_SECONDS
from tests.support.engines import migrated_postgresql
from tests.support.program import (
    COMMAND,
    DATABASE,
    development_key_in,
    environment,
    run,
    running,
    serving,
)
from tests.support.waiting import wait_until


def test_the_first_server_of_a_file_creates_a_key_and_names_its_file(tmp_path: Path) -> None:
    with serving(tmp_path, asking_for_keys=True) as first:
        line = first.wait_for(r"(?m)^(export SESSION_AUTHORITY_API_KEY=.+)$")
        file = tmp_path / f"{DATABASE}.key"
        key = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "sak_" not in first.stdout
        script = f'{line}; printf %s "$SESSION_AUTHORITY_API_KEY"'
        assert subprocess.check_output(["/bin/sh", "-c", script], text=True) == key
        with SessionClient(first.address, api_key=key) as client:
            assert client.validate(client.create("ada").token)
        assert key not in first.stderr
        assert first.stop() == 0
    with serving(tmp_path, asking_for_keys=True) as second:
        with SessionClient(second.address, api_key=key) as client:
            client.create("ada")
        assert "sak_" not in second.stdout
        assert file.read_text() == f"{key}\n"


def test_a_terminal_shows_the_key_once(tmp_path: Path) -> None:
    ours, terminal = pty.openpty()
    command: list[str | Path] = [COMMAND, "serve", "--listen", "127.0.0.1:0"]
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=terminal, stderr=subprocess.PIPE
        ) as server,
    ):
        os.close(terminal)
        shown = b""
        while b"serving on" not in shown:
            shown += screen.read(1_000)
        server.terminate()
        assert server.stderr is not None
        logged = server.stderr.read()
    key = development_key_in(tmp_path)
    assert shown.decode().count(key) == 1
    assert f"export SESSION_AUTHORITY_API_KEY={key}" in shown.decode()
    assert key not in logged.decode()


def test_an_insecure_server_creates_no_key_and_warns(tmp_path: Path) -> None:
    with serving(tmp_path, "--insecure") as program, SessionClient(program.address) as client:
        client.create("ada")
        assert "sak_" not in program.stdout
        assert "any caller has all permissions" in program.stderr
    assert not (tmp_path / f"{DATABASE}.key").exists()


def test_keys_are_created_listed_rotated_and_revoked_beside_a_running_server(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, asking_for_keys=True) as program:
        made = run(
            *("keys", "create", "shop", "--permission", "create", "--permission", "validate"),
            *("--expires-in", "90d"),
            cwd=tmp_path,
        )
        assert re.fullmatch(r"sak_\w{70}\n", made.stdout)
        assert "shop" in made.stderr
        key = made.stdout.strip()
        _wait_until_accepted(program.address, key)

        [listed] = [each for each in _listed(tmp_path) if each["name"] == "shop"]
        assert listed["state"] == "active"
        assert listed["permissions"] == ["create", "validate"]
        table = run("keys", "list", cwd=tmp_path).stdout
        assert f"{listed['key_id']}" in table
        assert "create, validate" in table

        rotated = run("keys", "rotate", listed["key_id"], "--overlap", "2s", cwd=tmp_path)
        successor = rotated.stdout.strip()
        assert successor not in {key, ""}
        _wait_until_accepted(program.address, successor)
        _wait_until_refused(program.address, key, "API_KEY_EXPIRED")
        states = {each["key_id"]: each["state"] for each in _listed(tmp_path)}
        assert states[listed["key_id"]] == "expired"

        [new_id] = [
            each["key_id"]
            for each in _listed(tmp_path)
            if each["name"] == "shop" and each["state"] == "active"
        ]
        assert run("keys", "revoke", new_id, cwd=tmp_path).returncode == 0
        _wait_until_refused(program.address, successor, "API_KEY_REVOKED")
        for shown in (table, json.dumps(_listed(tmp_path)), program.stdout, program.stderr):
            assert key[4:] not in shown
            assert successor[4:] not in shown
        assert "Traceback" not in program.stderr
    for file in filter(Path.is_file, tmp_path.glob(f"{DATABASE}*")):
        if not file.name.endswith(".key"):
            for each in (key, successor, development_key_in(tmp_path)):
                parsed = tokens.parse(each, "sak_")
                assert parsed is not None
                assert parsed.secret not in file.read_bytes()
                assert each[4:].encode() not in file.read_bytes()


def test_mistakes_at_the_command_line_are_reported_without_the_key(tmp_path: Path) -> None:
    run("migrate", cwd=tmp_path)
    made = run("keys", "create", "shop", "--permission", "watch", cwd=tmp_path).stdout.strip()
    unknown = "01a20bb6-10fd-7ec2-b518-b8d7f4d74f97"
    for arguments, word in [
        (("revoke", made), "not the key"),
        (("revoke", unknown), f"there is no key {unknown}"),
        (("rotate", unknown), f"there is no key {unknown}"),
        (("expire", unknown), f"there is no key {unknown}"),
        (("create", made, "--permission", "watch"), "must not contain a key"),
        (("create", "x", "--permission", "watch", "--expires-in", "soon"), "such as 90d"),
        (("create", "x"), "--permission"),
    ]:
        done = run("keys", *arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert done.stdout == ""
        assert word in done.stderr
        assert made not in done.stderr
        assert "Traceback" not in done.stderr
    [key] = _listed(tmp_path)
    assert run("keys", "expire", key["key_id"], cwd=tmp_path).returncode == 0
    assert "already expired" in run("keys", "rotate", key["key_id"], cwd=tmp_path).stderr


def test_every_server_follows_a_change_within_a_second(tmp_path: Path) -> None:
    assert keyring.REFRESH_SECONDS < 1
    with migrated_postgresql() as url, ExitStack() as stack:
        settings = {"SESSION_AUTHORITY_DATABASE_URL": url}
        servers = [
            stack.enter_context(serving(tmp_path, asking_for_keys=True, settings=settings))
            for _ in range(2)
        ]
        for server in servers:
            assert "session-authority keys create" in server.stderr
            assert "sak_" not in server.stdout
            with SessionClient(server.address) as client, pytest.raises(ApiKeyRejected) as caught:
                client.create("ada")
            assert "session-authority keys create" in str(caught.value)
        made = run("keys", "create", "x", "--permission", "create", cwd=tmp_path, settings=settings)
        key = made.stdout.strip()
        for server in servers:
            _wait_until_accepted(server.address, key)
        [listed] = _listed(tmp_path, settings)
        run("keys", "revoke", listed["key_id"], cwd=tmp_path, settings=settings)
        for server in servers:
            _wait_until_refused(server.address, key, "API_KEY_REVOKED")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT created_by FROM sessions LIMIT 1").fetchall() == [
                (listed["key_id"],)
            ]


async def test_the_list_of_keys_shows_their_last_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "WRITE_SECONDS", 0.02)
    database = Database.sqlite(tmp_path / DATABASE)
    await migrate(database)
    keys = ApiKeys(SqlKeyStore(database), SystemClock())
    _, key = await keys.create("shop", frozenset([Permission.CREATE]))
    settings = load_settings(database_url=f"sqlite:///{tmp_path / DATABASE}", listen="127.0.0.1:0")
    async with (
        app.serving(settings, app.ServeOptions()) as served,
        AsyncSessionClient(served.address, api_key=key) as client,
    ):
        assert [each.last_used_time for each in await keys.list()] == [None]
        await client.create("ada")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [each.last_used_time for each in await keys.list()] == [None]:
                await asyncio.sleep(0.02)
    await database.close()


def test_the_demonstration_uses_the_key_beside_its_file(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_API_KEY": tokens.mint(SystemClock().now()).encode("sak_")}
    arguments = ("demo", "--listen", "127.0.0.1:0")
    with running(*arguments, cwd=tmp_path, settings=settings) as demo:
        demo.wait_for("(Press Ctrl-C to stop)")
        assert "sak_" not in demo.stdout + demo.stderr


def _listed(folder: Path, settings: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = run("keys", "list", "--json", cwd=folder, settings=settings)
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


def _answer(address: str, key: str) -> str | None:
    """Return the reason why a server refuses a key, or None if it accepts the key."""
    with SessionClient(address, api_key=key) as client:
        try:
            client.create("ada")
        except ApiKeyRejected as error:
            return error.reason
        except Unavailable:
            return "the keys cannot be read yet"
    return None


def _wait_until_accepted(address: str, key: str) -> None:
    wait_until(lambda: _answer(address, key) is None)


def _wait_until_refused(address: str, key: str, reason: str) -> None:
    wait_until(lambda: _answer(address, key) == reason)
