"""Output of the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from session_authority_server.cli import commands
from tests.support.postgresql import free_port
from tests.support.program import BIN, Program, environment, run, run_process, running

SERVICE = "session_authority.v1.SessionService"


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "revoke", "check", "demo"])
def test_the_help_of_each_command_explains_its_options(command: str) -> None:
    done = CliRunner().invoke(commands, [command, "--help"], prog_name="session-authority")
    assert done.exit_code == 0
    assert f"Usage: session-authority {command} [OPTIONS]" in done.stdout
    options = re.findall(r"^  (--\S+)", done.stdout, re.MULTILINE)
    assert options
    for option in options:
        assert re.search(rf"{option}( [A-Z]+)?\s+[A-Z]\S+ \S+", done.stdout), option


def test_the_main_help_lists_every_command(tmp_path: Path) -> None:
    done = run_process("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("serve", "worker", "migrate", "keys", "revoke", "check", "demo"):
        assert re.search(rf"^  {command} +[A-Z]", done.stdout, re.MULTILINE)
    version = CliRunner().invoke(commands, ["--version"])
    assert re.search(r"\d+\.\d+", version.stdout)


def test_migrate_creates_the_schema_once(tmp_path: Path) -> None:
    first, second = [run("migrate", cwd=tmp_path) for _ in range(2)]

    assert (first.returncode, second.returncode) == (0, 0)
    assert re.search(r"session-authority.sqlite: the schema went from none to \d+", first.stdout)
    assert re.search(r"session-authority.sqlite: the schema is already \d+", second.stdout)


def test_demo_shows_three_devices_and_refuses_the_revoked_one(tmp_path: Path) -> None:
    # In the second run, the file contains the sessions of the first one.
    for _ in range(2):
        done = run_process("demo", "--leave", "--listen", "127.0.0.1:0", cwd=tmp_path)

        assert done.returncode == 0
        assert done.stderr == ""
        table, _, refusal = done.stdout.partition("She logs out")
        for words in ("Chrome on Windows", "Safari on iOS", "Firefox on Linux"):
            assert table.count(words) == 1
        for words in ("203.0.113.7", "198.51.100.23", "2001:db8::5", "this device"):
            assert words in table
        assert '"Firefox on Linux":' in refusal
        assert "first device's token: live, Chrome on Windows" in refusal
        assert "second device's token: live, Safari on iOS" in refusal
        assert "third device's token: refused, REVOKED" in refusal
        assert re.search(r"accepts that token after \d\d:\d\d:\d\d\.\d+ UTC", refusal)
        assert "ses_" not in done.stdout


def test_demo_takes_its_settings_from_the_environment_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "session-authority.toml").write_text('database_url = "sqlite:///mine.sqlite"\n')
    port = free_port()
    settings = {
        "SESSION_AUTHORITY_LISTEN": f"127.0.0.1:{port}",
        "SESSION_AUTHORITY_LOG_LEVEL": "info",
    }
    done = run_process("demo", "--leave", cwd=tmp_path, settings=settings)

    assert done.returncode == 0
    assert f"serves on 127.0.0.1:{port}, with sessions in {tmp_path}/mine.sqlite" in done.stdout
    assert '"level": "info"' in done.stderr
    assert not (tmp_path / "session-authority-demo.sqlite").exists()


def test_the_commands_that_demo_prints_run(tmp_path: Path) -> None:
    with running("demo", "--listen", "127.0.0.1:0", cwd=tmp_path) as demo:
        demo.wait_for("(Press Ctrl-C to stop)")
        printed = demo.stdout
        start, end = (
            printed.index("from session_authority import"),
            printed.index("or from a shell"),
        )
        snippet = printed[start:end]
        done = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        live, refused = done.stdout.splitlines()
        assert live.startswith("Session(")
        assert "user_id='grace'" in live
        assert "SIGNED_OUT" in refused

        start, end = printed.index(".venv/bin/buf curl"), printed.index("Press Ctrl-C to stop")
        # The documented folder is the project's root, but any folder with that environment works.
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv" / "bin").symlink_to(BIN)
        done = subprocess.run(
            ["bash", "-ec", printed[start:end]],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["session"]["userId"] == "grace"
        assert "Traceback" not in demo.stderr


def _buf_curl(server: Program, method: str, request: dict[str, Any], cwd: Path) -> Any:
    done = subprocess.run(
        [
            BIN / "buf",
            *("curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--data", json.dumps(request)),
            f"http://{server.address}/{SERVICE}/{method}",
        ],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout or done.stderr)


def test_buf_curl_creates_uses_and_ends_a_session_through_reflection(
    server: Program, tmp_path: Path
) -> None:
    def ask(method: str, **request: Any) -> Any:
        return _buf_curl(server, method, request, tmp_path)

    mine, lost = [ask("CreateSession", userId="eve", userAgent="curl/8.5.0") for _ in range(2)]
    assert mine["session"]["device"]["displayName"] == "curl"
    token = mine["sessionToken"]
    assert ask("ValidateSession", sessionToken=token)["session"]["userId"] == "eve"
    assert len(ask("ListSessions", sessionToken=token)["sessions"]) == 2
    revoked = ask("RevokeSession", sessionToken=token, sessionId=lost["session"]["sessionId"])
    assert revoked["session"]["endReason"] == "END_REASON_REVOKED"
    refused = ask("ValidateSession", sessionToken=lost["sessionToken"])
    assert refused == {"rejection": {"reason": "REJECTION_REASON_REVOKED"}}
    error = ask("RevokeSession", sessionToken=token, sessionId="x")
    assert error["code"] == "invalid_argument"
    assert "session_id: is not a session id" in error["message"]
