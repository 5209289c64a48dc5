"""Commands refuse invalid settings at startup, and say how to fix them."""

import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from session_authority import SessionClient
from session_authority_server.app.grpc_server import refuse_exposure
from session_authority_server.config import load_settings
from tests.support.certificates import TestAuthority
from tests.support.program import Refusal, run, run_process, serving

FREE = ("serve", "--listen", "127.0.0.1:0")


def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    with serving(tmp_path) as server:
        done = run_process(*FREE, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(
            f"Error: another process serves {tmp_path}/session-authority.sqlite"
        )
        assert "SESSION_AUTHORITY_DATABASE_URL" in done.stderr
        # Another spelling of the same path is also refused. The first server keeps running.
        url = f"sqlite:///{tmp_path}/./session-authority.sqlite"
        assert "another process serves" in refusal(*FREE, "--database-url", url)
        with SessionClient(server.address) as client:
            assert client.validate(client.create("ada").token)
        server.kill()
    with serving(tmp_path):
        pass


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as occupant:
        address = f"127.0.0.1:{occupant.getsockname()[1]}"
        done = run("serve", "--listen", address, cwd=tmp_path)
    assert done.returncode == 1
    assert f"Error: {address} can't be listened on" in done.stderr
    assert "SESSION_AUTHORITY_LISTEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_processes_on_sqlite_are_refused(tmp_path: Path, refusal: Refusal) -> None:
    for output in (
        refusal(*FREE, "--processes", "2"),
        refusal(*FREE, SESSION_AUTHORITY_PROCESSES="2"),
    ):
        assert output.count("\n") == 1
        assert (
            f"2 processes can't serve {tmp_path}/session-authority.sqlite: a SQLite file takes one"
            in output
        )
        assert "SESSION_AUTHORITY_DATABASE_URL" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_in_use_is_refused_to_several_processes(refusal: Refusal, shares: bool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), reuse_port=shares)) as occupant:
        address = f"127.0.0.1:{occupant.getsockname()[1]}"
        url = "postgresql://127.0.0.1:1/never-asked"
        arguments = ("--listen", address, "--database-url", url, "--processes", "2")
        output = refusal("serve", *arguments)
    assert output.startswith(f"Error: {address} can't be listened on")
    assert output.count("\n") == 1


def test_several_processes_off_loopback_without_tls_are_refused(refusal: Refusal) -> None:
    output = refusal("serve", "--listen", "0.0.0.0:0", "--processes", "2")
    assert "0.0.0.0:0 can be reached from other machines" in output


def test_a_metrics_port_in_use_is_refused(refusal: Refusal) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as occupant:
        address = f"127.0.0.1:{occupant.getsockname()[1]}"
        output = refusal(*FREE, SESSION_AUTHORITY_METRICS_LISTEN=address)
    assert f"metrics can't be served on {address}" in output
    output = refusal(*FREE, SESSION_AUTHORITY_METRICS_LISTEN="a..b:1")
    assert "metrics can't be served on a..b:1" in output


@pytest.mark.parametrize(
    "arguments", [FREE, ("worker", "--once"), ("migrate",), ("demo", "--listen", "127.0.0.1:0")]
)
def test_a_missing_folder_is_refused(
    tmp_path: Path, refusal: Refusal, arguments: tuple[str, ...]
) -> None:
    output = refusal(*arguments, "--database-url", f"sqlite:///{tmp_path}/missing/sessions.sqlite")
    assert f"there is no folder {tmp_path}/missing" in output


@pytest.mark.parametrize("command", ["check", "fence", "backup"])
def test_a_path_that_the_system_refuses_is_named(refusal: Refusal, command: str) -> None:
    name = "a" * 256
    more = ("copy.sqlite",) if command == "backup" else ()
    output = refusal(command, *more, SESSION_AUTHORITY_DATABASE_URL=f"sqlite:///{name}")
    assert f"the database {name} can't be used: File name too long" in output


def test_a_folder_without_write_permission_is_refused(refusal: Refusal) -> None:
    output = refusal(*FREE, "--database-url", "sqlite:////proc/sessions.sqlite")
    assert "/proc/sessions.sqlite can't be written to" in output


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("ALTER TABLE users RENAME TO lost", "the table users is missing"),
        (
            "ALTER TABLE sessions RENAME COLUMN actor_id TO lost",
            "the column actor_id of the table sessions is missing",
        ),
    ],
)
def test_an_incomplete_database_of_the_right_version_is_refused(
    tmp_path: Path, refusal: Refusal, damage: str, said: str
) -> None:
    assert run("migrate", cwd=tmp_path).returncode == 0
    assert run("migrate", "--check", cwd=tmp_path).returncode == 0
    with closing(sqlite3.connect(tmp_path / "session-authority.sqlite")) as connection, connection:
        connection.execute(damage)
    for arguments in (FREE, ("migrate", "--check")):
        assert said in refusal(*arguments)


def test_a_schema_with_two_recorded_versions_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    assert run("migrate", cwd=tmp_path).returncode == 0
    with closing(sqlite3.connect(tmp_path / "session-authority.sqlite")) as connection, connection:
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")
    for arguments in (FREE, ("worker", "--once"), ("migrate",), ("migrate", "--check")):
        output = refusal(*arguments)
        assert re.search(r"is 0001 and \d{4},", output)
        assert "delete the wrong versions from the table alembic_version" in output


def test_a_worker_without_a_schema_names_the_command_to_run(refusal: Refusal) -> None:
    assert "create it with: session-authority migrate" in refusal("worker", "--once")


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "session-authority.sqlite").write_bytes(b"something else " * 100)
    output = refusal(*FREE)
    assert "session-authority.sqlite can't be used: file is not a database" in output
    assert "sqlalche.me" not in output


@pytest.mark.parametrize("address", ["203.0.113.1:50551", "0.0.0.0:0", "[::]:0", "example.org:1"])
def test_a_plaintext_address_off_loopback_is_refused(
    tmp_path: Path, refusal: Refusal, address: str
) -> None:
    output = refusal("serve", "--listen", address)
    assert f"{address} can be reached from other machines" in output
    assert "SESSION_AUTHORITY_TLS_CERTIFICATE" in output
    assert "--allow-plaintext" in output
    assert "--insecure" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["allow_plaintext", "insecure"])
def test_an_address_off_loopback_is_served_in_plaintext_if_allowed(given: str) -> None:
    refuse_exposure(load_settings(listen="0.0.0.0:0"), **{"insecure": False, given: True})


def test_an_address_off_loopback_is_served_with_tls() -> None:
    encrypted = load_settings(listen="0.0.0.0:0", tls_certificate="tls.pem", tls_key="tls.key")
    refuse_exposure(encrypted, insecure=False)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (
            ("CERTIFICATE",),
            "SESSION_AUTHORITY_TLS_KEY (or tls_key in the configuration file): give",
        ),
        (("KEY",), "SESSION_AUTHORITY_TLS_KEY (or tls_key in the configuration file): give both"),
        (("CLIENT_CA",), "SESSION_AUTHORITY_TLS_CLIENT_CA (or tls_client_ca in the configuration"),
    ],
)
def test_a_certificate_without_a_key_and_a_key_without_a_certificate_are_refused(
    refusal: Refusal, given: tuple[str, ...], wrong: str
) -> None:
    output = refusal(*FREE, **{f"SESSION_AUTHORITY_TLS_{name}": "x.pem" for name in given})
    assert wrong in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_unusable_certificates_are_refused(
    tmp_path: Path, refusal: Refusal, processes: str
) -> None:
    authority = TestAuthority(tmp_path)
    one, other = authority.pair(), authority.pair()
    url = "postgresql://127.0.0.1:1/never-asked"
    arguments = (*FREE, "--processes", processes, "--database-url", url)

    def output(certificate: Path, key: Path, client_ca: Path | None = None) -> str:
        settings = {"CERTIFICATE": certificate, "KEY": key, "CLIENT_CA": client_ca or ""}
        line = refusal(
            *arguments,
            **{f"SESSION_AUTHORITY_TLS_{name}": str(settings[name]) for name in settings},
        )
        assert line.count("\n") == 1
        assert line.endswith("SESSION_AUTHORITY_TLS_KEY and SESSION_AUTHORITY_TLS_CLIENT_CA\n")
        return line

    assert "not a certificate and its private key" in output(one.certificate, other.key)
    assert "absent.pem can't be read: No such file" in output(tmp_path / "absent.pem", one.key)
    assert f"{tmp_path} can't be read: Is a directory" in output(one.certificate, tmp_path)
    assert "contains no certificate" in output(one.certificate, one.key, one.key)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_file_of_locations_that_does_not_exist_is_refused(
    refusal: Refusal, processes: str
) -> None:
    arguments = (*FREE, "--processes", processes, "--database-url", "postgresql://127.0.0.1:1/x")
    output = refusal(*arguments, SESSION_AUTHORITY_LOCATION_DATABASE="absent.mmdb")
    assert output == (
        "Error: absent.mmdb can't be read: No such file or directory; "
        "see SESSION_AUTHORITY_LOCATION_DATABASE\n"
    )


def test_one_error_names_all_bad_settings_in_the_environment(refusal: Refusal) -> None:
    output = refusal(
        *FREE, SESSION_AUTHORITY_DRAIN_SECONDS="soon", SESSION_AUTHORITY_LOG_LEVEL="loud"
    )
    assert "SESSION_AUTHORITY_DRAIN_SECONDS" in output
    assert "SESSION_AUTHORITY_LOG_LEVEL" in output
    assert "debug, info, warning, error" in output


def test_bad_settings_in_the_configuration_file_are_named(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "session-authority.toml").write_text('listen = "nowhere"\nlisten_on = 1\n')
    output = refusal("serve")
    assert "(or listen in the configuration file): give host:port" in output
    assert "listen_on" in output


def test_a_missing_or_broken_configuration_file_is_refused(
    tmp_path: Path, refusal: Refusal
) -> None:
    assert "the configuration file absent.toml does not exist" in refusal(
        "--config", "absent.toml", "serve"
    )
    (tmp_path / "broken.toml").write_text("listen = \n")
    assert "broken.toml can't be read" in refusal("serve", SESSION_AUTHORITY_CONFIG="broken.toml")


def test_only_the_owner_can_read_the_database(tmp_path: Path) -> None:
    with serving(tmp_path) as program, SessionClient(program.address) as client:
        client.create("ada")
        paths = list(tmp_path.glob("*.sqlite*"))
        modes = {path.stat().st_mode & 0o777 for path in paths if path.is_file()}
        [state] = filter(Path.is_dir, paths)
        assert state.stat().st_mode & 0o777 == 0o700
    assert len(paths) >= 4
    assert modes == {0o600}
