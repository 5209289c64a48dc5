"""The gateway as a process: it starts, answers, reports its health and drains."""

import re
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_authority import SessionClient
from tests.support.certificates import TestAuthority
from tests.support.gateway import (
    PREFIX,
    gateway_running,
    grpc_address,
    http_address,
    json_address,
)
from tests.support.json_gateway import SERVICE
from tests.support.program import Program, run, serving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("authority")) as it:
        yield it


def is_serving(channel: grpc.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_answers_on_both_ports_and_drains_on_sigterm(authority: Program, tmp_path: Path) -> None:
    with SessionClient(authority.address) as client:
        new = client.create("mary", authentication_methods=["pwd", "otp"])
    bearer = {"authorization": f"Bearer {new.token.reveal()}"}
    settings = {"METRICS_LISTEN": "127.0.0.1:0"}
    with gateway_running(tmp_path, authority.address, settings=settings) as gateway:
        url = f"http://{http_address(gateway)}"
        answer = httpx.get(f"{url}/verify", headers=bearer)
        assert answer.status_code == 200
        assert answer.headers["x-session-user-id"] == "mary"
        assert answer.headers["x-session-id"] == new.session.session_id
        assert answer.headers["x-session-authentication-methods"] == "pwd,otp"
        assert httpx.get(f"{url}/healthz").text == "serving"
        with grpc.insecure_channel(grpc_address(gateway)) as channel:
            assert is_serving(channel)
        assert gateway.stop() == 0
    assert gateway.stdout.endswith("session-authority: draining\nsession-authority: stopped\n")
    assert new.token.reveal() not in gateway.stderr


def test_all_ports_drain_at_once(tmp_path: Path) -> None:
    request = (
        f"POST {SERVICE}ListSessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        "Connect-Timeout-Ms: 60000\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        authority = f"127.0.0.1:{silent.getsockname()[1]}"
        listen, settings = ("--json-listen", "127.0.0.1:0"), {"DRAIN_SECONDS": "60"}
        gateway = stack.enter_context(
            gateway_running(tmp_path, authority, *listen, settings=settings)
        )
        channel = stack.enter_context(grpc.insecure_channel(grpc_address(gateway)))
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        host, _, port = json_address(gateway).partition(":")
        caller = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
        caller.sendall(request.encode())
        assert caller.recv(100).startswith(b"HTTP/1.1 100 ")
        caller.sendall(b"{}")  # the call waits for the authority
        gateway.terminate()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        caller.setblocking(False)
        with pytest.raises(BlockingIOError):
            caller.recv(1)
        gateway.kill()


def test_settings_come_from_the_table_of_the_configuration_file(
    authority: Program, tmp_path: Path
) -> None:
    (tmp_path / "session-authority.toml").write_text(
        'listen = "127.0.0.1:1"\n[gateway]\nsign_in_url = "/log-in"\n'
    )
    with gateway_running(tmp_path, authority.address) as gateway:
        answer = httpx.get(
            f"http://{http_address(gateway)}/verify",
            headers={"accept": "text/html", "x-forwarded-uri": "/a?b=c"},
        )
    assert answer.headers["location"] == "/log-in?next=%2Fa%3Fb%3Dc"


def test_serves_the_metrics_of_its_decisions(authority: Program, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"METRICS_LISTEN": f"127.0.0.1:{port}"}
    with gateway_running(tmp_path, authority.address, settings=settings) as gateway:
        httpx.get(f"http://{http_address(gateway)}/verify")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    name = "session_authority_gateway_decisions_total"
    assert f'{name}{{outcome="session_required",surface="forward_auth"}} 1.0' in text
    assert "session_authority_gateway_cached_sessions 0.0" in text
    assert "session_authority_gateway_cache_connected" in text


def test_serves_both_ports_with_tls_and_takes_new_certificates(
    authority: Program, tmp_path: Path
) -> None:
    signer = TestAuthority(tmp_path)
    pair = signer.pair()
    settings = {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key)}
    trust = ssl.create_default_context(cafile=signer.certificate)
    with gateway_running(tmp_path, authority.address, settings=settings) as gateway:
        address = http_address(gateway)
        assert httpx.get(f"https://{address}/healthz", verify=trust).status_code == 200
        credentials = grpc.ssl_channel_credentials(signer.certificate.read_bytes())
        with grpc.secure_channel(grpc_address(gateway), credentials) as channel:
            assert is_serving(channel)
        before = _served(address)
        pair.replace(signer.pair())
        assert _served(address) != before
        pair.certificate.write_text("no certificate")
        assert _served(address) != before


def _served(address: str) -> str:
    host, _, port = address.partition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_a_client_without_a_certificate_is_refused_if_one_is_required(
    authority: Program, tmp_path: Path
) -> None:
    signer = TestAuthority(tmp_path)
    pair = signer.pair()
    settings = {
        "TLS_CERTIFICATE": str(pair.certificate),
        "TLS_KEY": str(pair.key),
        "TLS_CLIENT_CA": str(signer.certificate),
    }
    trust = ssl.create_default_context(cafile=signer.certificate)
    with gateway_running(tmp_path, authority.address, settings=settings) as gateway:
        url = f"https://{http_address(gateway)}/healthz"
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=trust)
        trust.load_cert_chain(pair.certificate, pair.key)
        assert httpx.get(url, verify=trust).status_code == 200


def test_a_head_that_is_too_large_is_refused(authority: Program, tmp_path: Path) -> None:
    with gateway_running(tmp_path, authority.address) as gateway:
        host, _, port = http_address(gateway).partition(":")
        url = f"http://{host}:{port}/verify"
        with httpx.Client() as client:  # on one connection, so that each head is counted by itself
            for _ in range(3):
                assert client.get(url, headers={"x-large": "a" * 60_000}).status_code == 401
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET /verify HTTP/1.1\r\nhost: app\r\nx-large: " + b"a" * 140_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
            while connection.recv(1000):
                pass


@pytest.mark.parametrize(
    ("arguments", "settings", "problem"),
    [
        ((), {"LISTEN": "0.0.0.0:0"}, "0.0.0.0:0 can be reached from other machines"),
        ((), {"GRPC_LISTEN": "[::]:0"}, f"{PREFIX}GRPC_LISTEN to an address on 127.0.0.1"),
        ((), {"JSON_LISTEN": "0.0.0.0:0"}, f"{PREFIX}JSON_LISTEN to an address on 127.0.0.1"),
        ((), {"LISTEN": "192.0.2.1:1", "DRAIN_SECONDS": "x"}, "a duration such as 90d"),
        (("--allow-plaintext",), {"LISTEN": "192.0.2.1:1"}, f"Set {PREFIX}LISTEN to another"),
        (
            ("--allow-plaintext",),
            {"LISTEN": "127.0.0.1:0", "GRPC_LISTEN": "192.0.2.1:1"},
            f"Set {PREFIX}GRPC_LISTEN to another",
        ),
        (
            ("--allow-plaintext",),
            {"LISTEN": "127.0.0.1:0", "GRPC_LISTEN": "", "JSON_LISTEN": "192.0.2.1:1"},
            f"Set {PREFIX}JSON_LISTEN to another",
        ),
        (
            (),
            {"TLS_CERTIFICATE": "none.pem", "TLS_KEY": "none.key"},
            f"see {PREFIX}TLS_CERTIFICATE",
        ),
        ((), {"TLS_CERTIFICATE": "none.pem"}, "give both tls_certificate and tls_key"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str], problem: str
) -> None:
    free = dict.fromkeys(("LISTEN", "GRPC_LISTEN"), "127.0.0.1:0")
    given = {f"{PREFIX}{name}": value for name, value in (free | settings).items()}
    refused = run("gateway", *arguments, cwd=tmp_path, settings=given)
    assert refused.returncode == 1
    assert problem in refused.stderr
    assert not re.search("Traceback", refused.stderr)


def test_a_variable_of_the_client_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    refused = run("gateway", cwd=tmp_path, settings={"SESSION_AUTHORITY_ADDRESS": "nowhere"})
    assert refused.returncode == 1
    assert "SESSION_AUTHORITY_ADDRESS" in refused.stderr


def test_without_its_extra_the_command_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "session_authority_gateway.settings", None)
    refused = run("gateway", cwd=tmp_path)
    assert "install session-authority with its extra `gateway`" in refused.stderr
