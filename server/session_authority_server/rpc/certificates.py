"""The server's TLS certificates, which are reloaded when their files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import grpc
import structlog

from session_authority_server.observability.metrics import TLS_EXPIRY
from session_authority_server.rpc.certificate_dates import validity_period

_log = structlog.get_logger("session_authority.rpc")

# The inode, size and times of each file. Rewriting or replacing a file changes at least one of them.
_Fingerprint = tuple[tuple[int, int, int, int], ...]


class UnusableCertificates(Exception):
    """The certificate, its key or the CA for clients can't be used. The message says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The PEM files of the certificates.

    Attributes:
        certificate: The server's certificate and its chain.
        key: The private key of the certificate, without a passphrase.
        client_ca: CA certificates, one of which must have signed each client's certificate. None requests no client
            certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files, and check that they fit together.

        Raises:
            UnusableCertificates: If a file can't be read or has other contents, or if the key does not belong to the
                certificate.
        """
        before = self._contents()
        self._check()
        certificate, key, client_ca = self._contents()
        # Another program may be replacing the files one by one. The contents returned must be those that were checked.
        if (certificate, key, client_ca) != before:
            raise UnusableCertificates("the certificate files are being replaced")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def fingerprint(self) -> _Fingerprint | None:
        """Return a fingerprint of the files without reading them; None if a file is missing."""
        try:
            states = [path.stat() for path in self._paths()]
        except OSError:
            return None
        return tuple((at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for at in states)

    def _paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]

    def _contents(self) -> tuple[bytes, bytes, bytes | None]:
        client_ca = None if self.client_ca is None else _read(self.client_ca)
        return _read(self.certificate), _read(self.key), client_ca

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, _refuse_passphrase)
        except _Encrypted:
            raise UnusableCertificates(
                f"the key {self.key} is encrypted; give a key without a passphrase that only this user can read"
            ) from None
        except (ssl.SSLError, OSError):  # OpenSSL's own messages are less helpful
            raise UnusableCertificates(
                f"{self.certificate} and {self.key} are not a certificate and its private key in PEM"
            ) from None
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except (ssl.SSLError, OSError):
            raise UnusableCertificates(f"{self.client_ca} contains no certificate in PEM") from None


class _Encrypted(Exception):
    pass


def _refuse_passphrase() -> NoReturn:
    """Raise instead of letting OpenSSL ask for a passphrase on the terminal."""
    raise _Encrypted


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableCertificates(f"{path} can't be read: {error.strerror}") from None


class Certificates:
    """The certificates of a running server. Their files may be replaced.

    The files are checked at each new connection. Open connections keep their certificate. While the files don't fit
    together, the server continues with the certificates that it read last.
    """

    def __init__(self, files: CertificateFiles) -> None:
        """Read the files.

        Raises:
            UnusableCertificates: If the files can't be used.
        """
        self._files = files
        # Take the fingerprint before the read, so that the next check finds a change made meanwhile.
        self._fingerprint = files.fingerprint()
        self._current = files.read()
        self._export_expiry()
        self._failing = False
        # Whether gRPC has the current certificates.
        self._passed_on = True
        self._lock = Lock()  # gRPC calls `changed` from its own threads

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials to open a port with."""
        ask: Any = self.changed  # gRPC accepts None as "no change", but its types do not
        return grpc.dynamic_ssl_server_credentials(
            self._current, ask, self._files.client_ca is not None
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates for new connections; None if they have not changed.

        If clients must show certificates, the result is never None. gRPC then creates new keys for session tickets, so
        no client can resume an earlier TLS session. A resumed session would skip the check of the client's
        certificate, which may have expired.
        """
        with self._lock:
            self._reread_if_changed()
            if self._passed_on and self._files.client_ca is None:
                return None
            self._passed_on = True
            return self._current

    def reload(self) -> None:
        """Read the files now, and log the outcome. New connections get what was read."""
        with self._lock:
            self._failing = False
            self._reread()

    def _reread_if_changed(self) -> None:
        if self._failing or self._files.fingerprint() != self._fingerprint:
            self._reread()

    def _reread(self) -> None:
        fingerprint = self._files.fingerprint()
        try:
            found = self._files.read()
        except UnusableCertificates as error:
            if not self._failing:
                _log.error("certificates can't be reloaded; the old ones stay", why=str(error))
            self._failing = True
            return
        self._current = found
        self._passed_on = False
        self._failing = False
        self._fingerprint = fingerprint
        self._export_expiry()
        _log.info("certificates reloaded")

    def _export_expiry(self) -> None:
        period = validity_period(self._files.certificate, self._files.key)
        if period is not None:
            TLS_EXPIRY.set(period[1].timestamp())
