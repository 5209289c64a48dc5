import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)
from tests.support.certificates import Pair, TestAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def shown(authority: TestAuthority, tmp_path: Path) -> Pair:
    """Return a certificate and key at the paths that the server reads."""
    pair = Pair(tmp_path / "tls.pem", tmp_path / "tls.key")
    pair.replace(authority.pair())
    return pair


def _certificates(pair: Pair, client_ca: Path | None = None) -> Certificates:
    return Certificates(CertificateFiles(pair.certificate, pair.key, client_ca))


def test_an_unchanged_pair_is_not_read_again(shown: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = _certificates(shown)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    assert certificates.changed() is None


def test_a_replaced_pair_is_returned_once(authority: TestAuthority, shown: Pair) -> None:
    certificates = _certificates(shown)
    shown.replace(authority.pair())
    assert certificates.changed() is not None
    assert certificates.changed() is None


def test_a_reload_reads_the_files_at_once_and_logs_every_outcome(
    authority: TestAuthority, shown: Pair
) -> None:
    certificates = _certificates(shown)
    with capture_logs() as logs:
        certificates.reload()
        assert certificates.changed() is not None
        assert certificates.changed() is None
        shown.key.unlink()
        certificates.reload()
        certificates.reload()
        assert certificates.changed() is None
        shown.replace(authority.pair())
        certificates.reload()
        assert certificates.changed() is not None
    assert [line["log_level"] for line in logs] == ["info", "error", "error", "info"]


def test_another_client_certificate_authority_counts_as_a_change(
    authority: TestAuthority, shown: Pair, tmp_path: Path
) -> None:
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.certificate.read_bytes())
    certificates = _certificates(shown, client_ca)
    client_ca.write_bytes(TestAuthority(tmp_path, "other").certificate.read_bytes())
    assert certificates.changed() is not None


def test_a_server_that_requires_client_certificates_never_resumes_tls_sessions(
    authority: TestAuthority, shown: Pair
) -> None:
    certificates = _certificates(shown, authority.certificate)
    unchanged = certificates.changed()
    assert unchanged is not None
    assert certificates.changed() is unchanged
    shown.replace(authority.pair())
    assert certificates.changed() is not unchanged


def test_a_pair_replaced_one_file_at_a_time_is_used_only_once_complete(
    authority: TestAuthority, shown: Pair
) -> None:
    certificates, fresh = _certificates(shown), authority.pair()
    with capture_logs() as logs:
        shown.certificate.write_bytes(fresh.certificate.read_bytes())
        assert certificates.changed() is None
        assert certificates.changed() is None
        shown.key.write_bytes(fresh.key.read_bytes())
        assert certificates.changed() is not None
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "certificates can't be reloaded; the old ones stay"),
        ("info", "certificates reloaded"),
    ]
    assert str(shown.key) in logs[0]["why"]


@pytest.mark.parametrize("damage", ["half", "gone", "empty"])
def test_a_broken_file_keeps_the_earlier_pair_in_use(
    authority: TestAuthority, shown: Pair, damage: str
) -> None:
    certificates, before = _certificates(shown), shown.certificate.read_bytes()
    match damage:
        case "half":
            shown.certificate.write_bytes(before[: len(before) // 2])
        case "empty":
            shown.certificate.write_bytes(b"")
        case "gone":
            shown.certificate.unlink()
    with capture_logs() as logs:
        assert certificates.changed() is None
        assert certificates.changed() is None
    assert [line["log_level"] for line in logs] == ["error"]
    shown.replace(authority.pair())
    assert certificates.changed() is not None


def test_a_pair_replaced_while_it_is_read_is_not_used(
    authority: TestAuthority, shown: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = authority.pair()
    files = CertificateFiles(shown.certificate, shown.key)
    check = CertificateFiles._check

    def replaced_meanwhile(self: CertificateFiles) -> None:
        check(self)
        shown.certificate.write_bytes(fresh.certificate.read_bytes())

    monkeypatch.setattr(CertificateFiles, "_check", replaced_meanwhile)
    with pytest.raises(UnusableCertificates, match="are being replaced"):
        files.read()


def test_a_key_of_another_certificate_is_refused(authority: TestAuthority, shown: Pair) -> None:
    other = authority.pair()
    with pytest.raises(UnusableCertificates, match="are not a certificate and its private key"):
        _certificates(Pair(shown.certificate, other.key))


def test_a_missing_file_is_named(shown: Pair) -> None:
    with pytest.raises(UnusableCertificates, match=r"absent\.pem can't be read: No such file"):
        _certificates(Pair(shown.certificate.with_name("absent.pem"), shown.key))


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(
    shown: Pair, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(
        ["openssl", "pkey", "-in", shown.key, "-out", encrypted, "-aes256", "-passout", "pass:x"],
        check=True,
        timeout=30,
    )
    with pytest.raises(UnusableCertificates, match="is encrypted"):
        _certificates(Pair(shown.certificate, encrypted))


def test_an_invalid_client_authority_is_refused(shown: Pair) -> None:
    with pytest.raises(UnusableCertificates, match="contains no certificate"):
        _certificates(shown, shown.key)


def test_no_message_or_repr_contains_a_key(authority: TestAuthority, shown: Pair) -> None:
    files = CertificateFiles(shown.certificate, shown.key)
    shown.key.write_bytes(authority.pair().key.read_bytes())
    with pytest.raises(UnusableCertificates) as caught:
        files.read()
    for text in (str(caught.value), repr(caught.value), repr(files)):
        assert "PRIVATE KEY" not in text
