"""The server's TLS certificates, read again whenever their files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import grpc
import structlog

_log = structlog.get_logger("session_authority.rpc")

# Of each file: its inode, size and times. Rewriting or replacing a file changes at least one.
_Seen = tuple[tuple[int, int, int, int], ...]


class UnusableCertificates(Exception):
    """The certificate, its key or the clients' CA can't be used. The message says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificates are, as PEM.

    Attributes:
        certificate: The server's certificate, then those that lead from it to its authority.
        key: The private key of the certificate, without a passphrase.
        client_ca: CA certificates. One of them must have signed a client's certificate; None to ask for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return the contents of the files, after checking that they fit together.

        Raises:
            UnusableCertificates: If a file can't be read or holds something else, or if the key is not the
                certificate's.
        """
        before = self._contents()
        self._check()
        certificate, key, client_ca = self._contents()
        # Another program may be replacing the files one by one. What was checked must be what was read.
        if (certificate, key, client_ca) != before:
            raise UnusableCertificates("the certificate's files are just being replaced")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def seen(self) -> _Seen | None:
        """Return a cheap fingerprint of the files; None if one is missing."""
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
                f"the key {self.key} is encrypted; give one without a passphrase, readable by this user alone"
            ) from None
        except (ssl.SSLError, OSError):  # their messages say less
            raise UnusableCertificates(
                f"{self.certificate} and {self.key} are no certificate and its private key, in PEM"
            ) from None
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except (ssl.SSLError, OSError):
            raise UnusableCertificates(f"{self.client_ca} holds no certificate in PEM") from None


class _Encrypted(Exception):
    pass


def _refuse_passphrase() -> NoReturn:
    """Stand in for OpenSSL's question on the terminal, which nobody may answer."""
    raise _Encrypted


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableCertificates(f"{path} can't be read: {error.strerror}") from None


class Certificates:
    """The certificates of a running server, whose files may be replaced.

    The files are checked at each new connection. Open connections keep the certificate they began with. While the
    files don't fit together, the server goes on with the certificates it read last.
    """

    def __init__(self, files: CertificateFiles) -> None:
        """Read the files.

        Raises:
            UnusableCertificates: If the files can't be used.
        """
        self._files = files
        # Taken before the files are read, so that the next look finds a change made meanwhile.
        self._seen = files.seen()
        self._shown = files.read()
        self._failing = False
        self._lock = Lock()  # gRPC calls from its own threads

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials to open a port with."""
        ask: Any = self.changed  # None means "no change" to gRPC, but not to its types
        return grpc.dynamic_ssl_server_credentials(
            self._shown, ask, self._files.client_ca is not None
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates to show from now on; None if they have not changed.

        If clients must show a certificate, there is always an answer. gRPC then makes new keys for session tickets,
        so no client can resume an earlier TLS session. The server would not check its certificate again, and that
        may have expired.
        """
        with self._lock:
            found = self._reread()
            if found is not None:
                self._shown = found
            elif self._files.client_ca is not None:
                return self._shown
            return found

    def _reread(self) -> grpc.ServerCertificateConfiguration | None:
        seen = self._files.seen()
        if seen == self._seen and not self._failing:
            return None
        try:
            found = self._files.read()
        except UnusableCertificates as error:
            if not self._failing:
                _log.error("certificates can't be reloaded; the old ones stay", why=str(error))
            self._failing = True
            return None
        self._failing = False
        self._seen = seen
        _log.info("certificates reloaded")
        return found
