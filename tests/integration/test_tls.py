"""Encryption, client certificates, and the replacement of certificates while calls continue."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from session_authority import SessionClient, Unavailable
from tests.support.certificates import Pair, TestAuthority
from tests.support.engines import migrated_postgresql
from tests.support.program import Program, running, serving

_TLS_REFUSAL_SECONDS = 2.0
_PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("stranger"), "stranger")


def _settings(pair: Pair, client_ca: Path | None = None) -> dict[str, str]:
    return {
        "SESSION_AUTHORITY_TLS_CERTIFICATE": str(pair.certificate),
        "SESSION_AUTHORITY_TLS_KEY": str(pair.key),
        "SESSION_AUTHORITY_TLS_CLIENT_CA": "" if client_ca is None else str(client_ca),
    }


@pytest.fixture(scope="module")
def server(authority: TestAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, settings=_settings(authority.pair())) as program:
        yield program
        assert "Traceback" not in program.stderr
        assert program.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def silent(server: Program) -> Iterator[socket.socket]:
    """Connect without a handshake. The server closes the connection after 5 s, while other tests run."""
    host, port = server.address.split(":")
    with closing(socket.create_connection((host, int(port)), _PATIENCE_SECONDS)) as connection:
        yield connection


@pytest.fixture(scope="module")
def mutual_server(
    authority: TestAuthority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """Run a server that requires a client certificate."""
    folder = tmp_path_factory.mktemp("mutual_server")
    settings = _settings(authority.pair(), authority.certificate)
    with serving(folder, settings=settings) as program:
        yield program


def _client(program: Program, trusted: TestAuthority, pair: Pair | None = None) -> SessionClient:
    return SessionClient(
        program.address,
        deadline_seconds=_TLS_REFUSAL_SECONDS,
        root_certificates=trusted.certificate.read_bytes(),
        client_certificate=None if pair is None else pair.certificate.read_bytes(),
        client_key=None if pair is None else pair.key.read_bytes(),
    )


def _accepts(client: SessionClient) -> bool:
    with client:
        try:
            return bool(client.validate(client.create("ada").token))
        except Unavailable:
            return False


@contextmanager
def _handshake(
    program: Program, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """Perform a TLS handshake with the server, and resume an earlier session if one is given."""
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = program.address.split(":")
    with (
        socket.create_connection((host, int(port)), _PATIENCE_SECONDS) as raw,
        context.wrap_socket(raw, session=session) as shaken,
    ):
        yield shaken


def test_a_client_that_trusts_the_authority_is_served(
    server: Program, authority: TestAuthority
) -> None:
    assert _accepts(_client(server, authority))


def test_a_client_refuses_a_server_of_another_certificate_authority(
    server: Program, stranger: TestAuthority
) -> None:
    assert not _accepts(_client(server, stranger))


def test_a_client_refuses_a_server_with_an_expired_certificate(
    tmp_path: Path, authority: TestAuthority
) -> None:
    with serving(tmp_path, settings=_settings(authority.pair(expired=True))) as program:
        assert not _accepts(_client(program, authority))


def test_a_tls_server_does_not_answer_plaintext(server: Program) -> None:
    plain = SessionClient(server.address, tls=False, deadline_seconds=_TLS_REFUSAL_SECONDS)
    with plain as client, pytest.raises(Unavailable):
        client.create("ada")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_tls_versions_are_accepted(server: Program, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    with _handshake(server, context) as shaken:
        assert shaken.version() == version.name.replace("_", ".")
        assert shaken.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_versions_are_refused_by_the_server(
    server: Program, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL would otherwise not offer the protocol
    context.minimum_version = context.maximum_version = version
    with (
        pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|EOF"),
        _handshake(server, context),
    ):
        pass


@pytest.mark.parametrize("ciphers", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_unauthenticated_ciphers_are_refused_by_the_server(server: Program, ciphers: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers(ciphers)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|EOF"), _handshake(server, context):
        pass


def test_a_client_with_a_certificate_of_the_right_authority_is_accepted(
    mutual_server: Program, authority: TestAuthority
) -> None:
    assert _accepts(_client(mutual_server, authority, authority.pair()))


def test_a_client_without_a_certificate_is_refused(
    mutual_server: Program, authority: TestAuthority
) -> None:
    assert not _accepts(_client(mutual_server, authority))


def test_a_client_with_a_certificate_of_another_authority_is_refused(
    mutual_server: Program, authority: TestAuthority, stranger: TestAuthority
) -> None:
    assert not _accepts(_client(mutual_server, authority, stranger.pair()))


def test_a_client_with_an_expired_certificate_is_refused(
    mutual_server: Program, authority: TestAuthority
) -> None:
    assert not _accepts(_client(mutual_server, authority, authority.pair(expired=True)))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_with_a_certificate_cannot_resume_an_earlier_tls_session(
    mutual_server: Program, authority: TestAuthority, version: ssl.TLSVersion
) -> None:
    # The server does not check the certificate of a session that is resumed, and the certificate may have expired.
    pair = authority.pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(pair.certificate, pair.key)
    with _handshake(mutual_server, context) as first:
        first.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        assert first.recv(100)  # with TLS 1.3, tickets arrive before the server's first data
        session = first.session
    assert session is not None
    with _handshake(mutual_server, context, session) as second:
        assert not second.session_reused


def test_a_client_takes_its_certificate_from_the_environment(
    mutual_server: Program, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.pair()
    for name, value in {
        "ADDRESS": mutual_server.address,
        "TLS_ROOT_CERTIFICATES": authority.certificate,
        "TLS_CLIENT_CERTIFICATE": pair.certificate,
        "TLS_CLIENT_KEY": pair.key,
    }.items():
        monkeypatch.setenv(f"SESSION_AUTHORITY_{name}", str(value))
    assert _accepts(SessionClient.from_env())


def test_certificates_are_replaced_while_calls_continue(
    tmp_path: Path, authority: TestAuthority, stranger: TestAuthority
) -> None:
    shown = Pair(tmp_path / "tls.pem", tmp_path / "tls.key")
    shown.replace(authority.pair())
    with (
        serving(tmp_path, settings=_settings(shown)) as program,
        _client(program, authority) as connected,
    ):
        token = connected.create("ada").token
        stop, answers = threading.Event(), list[bool]()

        def call_on() -> None:
            while not stop.is_set():
                answers.append(bool(connected.validate(token)))

        calling = threading.Thread(target=call_on)
        calling.start()
        try:
            shown.key.write_bytes(b"")  # a broken file, as after a failed rotation
            assert _accepts(_client(program, authority))
            shown.replace(stranger.pair())
            assert _accepts(_client(program, stranger))
            assert not _accepts(_client(program, authority))
            before = len(answers)
            assert _accepts(_client(program, stranger))
        finally:
            stop.set()
            calling.join()
        assert len(answers) > before
        assert all(answers)
        assert program.stop() == 0
        assert program.stderr.count("certificates can't be reloaded") == 1
        assert program.stderr.count("certificates reloaded") == 1


def test_each_process_shows_a_replaced_certificate(
    tmp_path: Path, authority: TestAuthority, stranger: TestAuthority
) -> None:
    shown = Pair(tmp_path / "tls.pem", tmp_path / "tls.key")
    shown.replace(authority.pair())
    arguments = ("serve", "--listen", "127.0.0.1:0", "--processes", "2", "--insecure")
    with migrated_postgresql() as url:
        settings = _settings(shown) | {"SESSION_AUTHORITY_DATABASE_URL": url}
        with running(*arguments, cwd=tmp_path, settings=settings) as program:
            assert program.address
            # The kernel assigns each connection to a process. Eight connections reach both.
            assert all(_accepts(_client(program, authority)) for _ in range(8))
            shown.replace(stranger.pair())
            assert all(_accepts(_client(program, stranger)) for _ in range(8))
            assert not any(_accepts(_client(program, authority)) for _ in range(2))
            assert program.stop() == 0


def test_no_output_contains_the_servers_key(server: Program) -> None:
    assert "PRIVATE KEY" not in server.stdout + server.stderr


def test_a_connection_without_a_handshake_is_closed_in_time(silent: socket.socket) -> None:
    assert silent.recv(100) == b""
