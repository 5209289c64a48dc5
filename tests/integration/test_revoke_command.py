"""`session-authority revoke`, against a server in a separate process."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority import Identity, NewSession, SessionClient
from session_authority.session import RejectionReason
from tests.support.program import Program, run, run_process, serving

MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def client(server: Program) -> Iterator[SessionClient]:
    with SessionClient(server.address) as connected:
        yield connected


def revoke(
    address: str, *options: str, said: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    given = {"SESSION_AUTHORITY_ADDRESS": address, **settings}
    return run("revoke", *options, cwd=Path(), settings=given, said=said)


def assert_ended(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert re.search(
        f"Revoked. No service accepts these sessions after {MOMENT}[.]$", done.stdout, re.MULTILINE
    )


def is_revoked(client: SessionClient, new: NewSession) -> bool:
    answer = client.validate(new.token)
    return not answer and answer.reason is RejectionReason.REVOKED


def test_each_option_ends_exactly_the_sessions_that_it_names(
    server: Program, client: SessionClient
) -> None:
    ada, bob, cyd, dan = [client.create(name) for name in ("ada", "bob", "cyd", "dan")]
    assert_ended(revoke(server.address, "--user", "ada", "--reason", "lost laptop"))
    assert is_revoked(client, ada)
    assert client.validate(bob.token)
    assert_ended(revoke(server.address, "--session", bob.session.session_id))
    assert is_revoked(client, bob)
    assert client.validate(cyd.token)
    assert_ended(revoke(server.address, "--token", "-", said=f"{cyd.token.reveal()}\n"))
    assert is_revoked(client, cyd)
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert_ended(revoke(server.address, "--created-by-key", "no key", "--since", since))
    assert client.validate(dan.token)
    provider = ("--identity", "https://id.example")
    one, two = (
        client.create("eve", identity=Identity("https://id.example", "u-1", sid))
        for sid in ("s-1", "s-2")
    )
    assert_ended(revoke(server.address, *provider, "--sid", "s-1"))
    assert is_revoked(client, one)
    assert client.validate(two.token)
    assert_ended(revoke(server.address, *provider, "--subject", "u-1"))
    assert is_revoked(client, two)
    assert client.validate(dan.token)
    assert_ended(revoke(server.address, "--all", "--yes"))
    assert is_revoked(client, dan)
    assert_ended(revoke(server.address, "--user", "unknown"))


def test_all_users_are_signed_out_only_after_confirmation(
    server: Program, client: SessionClient
) -> None:
    ada = client.create("ada")
    for said in ("", "\n", "n\n"):
        done = revoke(server.address, "--all", said=said)
        assert done.returncode == 1
        assert "signs all users out" in done.stdout
        assert client.validate(ada.token)
    assert_ended(revoke(server.address, "--all", said="y\n"))
    assert is_revoked(client, ada)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "give exactly one of"),
        (["--user", "ada", "--all"], "give exactly one of"),
        (["--user", "ada", "--session", "x"], "give exactly one of"),
        (["--user", "ada", "--since", "2026-01-15T12:00:00Z"], "--since needs"),
        (["--created-by-key", "k", "--since", "2026-01-15T12:00:00"], "with its time zone"),
        (["--created-by-key", "k", "--since", "yesterday"], "with its time zone"),
        (["--token", "ses_abc"], "token on standard input"),
        (["--identity", "https://id.example"], "--identity needs"),
        (["--user", "ada", "--sid", "s-1"], "--identity needs"),
    ],
)
def test_an_ambiguous_command_is_refused(options: list[str], problem: str) -> None:
    done = revoke("127.0.0.1:1", *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "ses_abc" not in done.stderr


def test_a_refusal_is_one_line_without_the_token(server: Program, client: SessionClient) -> None:
    token = client.create("ada").token.reveal()
    for options, said, problem in (
        (["--token", "-"], token[:-1], "session_token: is not a whole token"),
        (["--token", "-"], "", "session_token: is not a whole token"),
        (["--session", "x"], "", "session_id: is not a session id"),
        (["--user", ""], "", "user_id: has 0 bytes"),
    ):
        done = revoke(server.address, *options, said=said)
        assert done.returncode == 1
        assert problem in done.stderr
        assert "Traceback" not in done.stderr
        assert token[4:20] not in done.stderr


def test_an_unreachable_authority_is_reported_in_one_line() -> None:
    done = revoke("127.0.0.1:1", "--user", "ada", SESSION_AUTHORITY_DEADLINE_SECONDS="0.5")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_invalid_setting_is_named() -> None:
    done = revoke("127.0.0.1:1", "--user", "ada", SESSION_AUTHORITY_TLS="maybe")
    assert done.returncode == 1
    assert "SESSION_AUTHORITY_TLS" in done.stderr


def test_a_command_beside_the_database_uses_the_development_key(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(tmp_path, asking_for_keys=True) as server:
        at = {"SESSION_AUTHORITY_ADDRESS": server.address}
        assert_ended(run_process("revoke", "--user", "ada", cwd=tmp_path, settings=at))
        refused = run("revoke", "--user", "ada", cwd=elsewhere, settings=at)
    assert refused.returncode == 1
    assert "no API key" in refused.stderr
