"""What a server shows to prove who it is, read anew whenever its files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import grpc
import structlog

_log = structlog.get_logger("session_authority.rpc")

# Of each file: its inode, size and times, which no rewriting or replacing leaves as they were.
_Seen = tuple[tuple[int, int, int, int], ...]


class UnusableCertificates(Exception):
    """The certificate, its key or the clients' authority can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificates are, as PEM.

    Attributes:
        certificate: The server's certificate, then those that lead from it to its authority.
        key: The private key of the certificate, without a passphrase.
        client_ca: Authorities, one of which must have signed the certificate of whoever connects; None to
            ask for no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return what the files hold, once it is certain that it fits together.

        Raises:
            UnusableCertificates: If a file can't be read, holds something else, or key and certificate are not
                of one pair.
        """
        before = self._contents()
        self._check()
        certificate, key, client_ca = self._contents()
        # What was checked is what was read, although another program may be replacing the files one by one.
        if (certificate, key, client_ca) != before:
            raise UnusableCertificates("the certificate's files are just being replaced")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def seen(self) -> _Seen | None:
        """Return what changes whenever a file does, for little; None if one is not there."""
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
        except (ssl.SSLError, OSError):  # whose words say less
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
    """Stand in for a question on the terminal, where nobody may be."""
    raise _Encrypted


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableCertificates(f"{path} can't be read: {error.strerror}") from None


class Certificates:
    """The certificates of a server that goes on while they are replaced.

    They are looked at whenever somebody connects. Those who are connected stay so, under what held when they
    came. While the files don't fit together, what was read last goes on to be shown.
    """

    def __init__(self, files: CertificateFiles) -> None:
        """Read them.

        Raises:
            UnusableCertificates: If they can't be used.
        """
        self._files = files
        # Before they are read: what changes meanwhile will be seen as changed.
        self._seen = files.seen()
        self._shown = files.read()
        self._failing = False
        self._lock = Lock()  # gRPC asks from threads of its own

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port is opened with."""
        ask: Any = self.changed  # gRPC takes None for "no change", and its types don't say so
        return grpc.dynamic_ssl_server_credentials(
            self._shown, ask, self._files.client_ca is not None
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates to show from now on; None to go on with those returned last.

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
