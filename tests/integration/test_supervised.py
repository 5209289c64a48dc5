"""States, health and version of a process, as a service manager or an orchestrator reads them."""

import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.certificates import TestAuthority
from tests.support.code_blocks import ROOT
from tests.support.engines import migrated_postgresql
from tests.support.program import run, run_process, running, serving

CERTIFICATE, KEY = "SESSION_AUTHORITY_TLS_CERTIFICATE", "SESSION_AUTHORITY_TLS_KEY"
CLIENT_CERTIFICATE, CLIENT_KEY = (
    "SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE",
    "SESSION_AUTHORITY_TLS_CLIENT_KEY",
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen for states, as systemd does."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.settimeout(60)
        listening.bind(str(tmp_path / "notify"))
        yield listening


@pytest.mark.parametrize(
    ("arguments", "engine"),
    [
        (("serve", "--insecure", "--listen", "127.0.0.1:0"), "sqlite"),
        (("serve", "--insecure", "--listen", "127.0.0.1:0", "--processes", "2"), "postgresql"),
        (("worker",), "sqlite"),
    ],
)
def test_the_service_manager_gets_each_state_once(
    arguments: tuple[str, ...], engine: str, manager: socket.socket, tmp_path: Path
) -> None:
    settings = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    database = (
        migrated_postgresql() if engine == "postgresql" else nullcontext("sqlite:///a.sqlite")
    )
    with database as url:
        settings["SESSION_AUTHORITY_DATABASE_URL"] = url
        assert run("migrate", cwd=tmp_path, settings=settings).returncode == 0
        with running(*arguments, cwd=tmp_path, settings=settings) as program:
            assert manager.recv(100) == b"READY=1"
            assert program.wait_for(r"session-authority: (serving|worker) on")
            program.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert program.exit_code() == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_health_says_whether_the_server_is_serving(tmp_path: Path) -> None:
    # A service manager that is gone does not stop the server.
    with serving(tmp_path, settings={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as server:
        everywhere = {"SESSION_AUTHORITY_LISTEN": server.address.replace("127.0.0.1", "0.0.0.0")}
        done = run("health", cwd=tmp_path, settings=everywhere)
        assert (done.returncode, done.stdout) == (0, f"{server.address}: SERVING\n"), done.stderr
    done = run("health", cwd=tmp_path, settings=everywhere)
    assert done.returncode == 1
    assert f"{server.address} does not answer: UNAVAILABLE" in done.stderr
    done = run("health", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 2
    assert "give --listen with the actual port" in done.stderr


def test_health_fails_while_the_server_refuses_calls(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    status = health.HealthServicer()
    status.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    done = run("health", "--listen", f"127.0.0.1:{port}", cwd=tmp_path)
    server.stop(None).wait()
    assert (done.returncode, done.stderr) == (1, f"Error: 127.0.0.1:{port}: NOT_SERVING\n")


def test_health_trusts_only_the_certificate_of_its_settings(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    # Certificates name the address that apps use, which is not the loopback address of `health`.
    pair = authority.pair(names="DNS:*.sessions.internal, DNS:sessions.example")
    other = authority.pair()
    tls = {CERTIFICATE: str(pair.certificate), KEY: str(pair.key)}
    server_tls = tls | {"SESSION_AUTHORITY_TLS_CLIENT_CA": str(authority.certificate)}
    shown = {CLIENT_CERTIFICATE: str(other.certificate), CLIENT_KEY: str(other.key)}
    with serving(tmp_path, settings=server_tls) as server:
        for settings, code, said in (
            (server_tls | shown, 0, "SERVING"),
            (server_tls, 1, f"set {CLIENT_CERTIFICATE} and {CLIENT_KEY}"),
            (server_tls | shown | {CLIENT_KEY: "absent.key"}, 1, "absent.key can't be read"),
            ({CERTIFICATE: str(other.certificate), KEY: str(other.key)}, 1, "UNAVAILABLE"),
            ({CERTIFICATE: str(pair.certificate), KEY: str(other.key)}, 1, "private key in PEM"),
            ({CERTIFICATE: "absent.pem", KEY: "absent.key"}, 1, "can't be read: No such file"),
            ({}, 1, "UNAVAILABLE"),
        ):
            done = run("health", "--listen", server.address, cwd=tmp_path, settings=settings)
            assert done.returncode == code, (settings, done.stdout, done.stderr)
            assert said in done.stdout + done.stderr


def test_the_version_has_one_source(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = run_process("--version", cwd=tmp_path)
    assert done.stdout == f"session-authority, version {project['version']}\n"


def test_without_the_server_the_command_names_the_extra(tmp_path: Path) -> None:
    script = "import sys; sys.modules['click'] = None; from session_authority.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr == (
        "session-authority: the module 'click' is not installed; "
        "install session-authority with its extra `server`\n"
    )
