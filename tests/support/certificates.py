"""Certificate authorities for tests, made by the openssl command."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_LOOPBACK = "DNS:localhost, IP:127.0.0.1"
_CONFIG = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
subjectAltName = $ENV::NAMES
extendedKeyUsage = serverAuth, clientAuth
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path

    def replace(self, other: "Pair") -> None:
        """Replace this pair's files with those of another pair, as a rotation tool does."""
        for target, source in ((self.certificate, other.certificate), (self.key, other.key)):
            fresh = target.with_suffix(".fresh")
            fresh.write_bytes(source.read_bytes())
            fresh.replace(target)


class TestAuthority:
    """Signs certificates for this machine's loopback."""

    __test__ = False

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._config = folder / "openssl.cnf"
        self._config.write_text(_CONFIG)
        self._made = 0
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            *("req", "-x509", "-config", self._config, "-extensions", "ca", "-days", "2"),
            *("-subj", f"/CN={name}", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", pair.key, "-out", pair.certificate),
        )
        self._pair = pair

    @property
    def certificate(self) -> Path:
        return self._pair.certificate

    def pair(self, *, days: int = 1, expired: bool = False, names: str = _LOOPBACK) -> Pair:
        """Return a new certificate for some names, valid for some days from now, or expired."""
        self._made += 1
        name = f"{self.certificate.stem}-{self._made}"
        made = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        _openssl(
            *("req", "-new", "-config", self._config, "-subj", f"/CN={name}", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", made.key),
            *("-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._pair.key),
            *("-CAcreateserial", "-extfile", self._config, "-extensions", "leaf"),
            *("-days", "-1" if expired else str(days), "-out", made.certificate),
            names=names,
        )
        return made


def _openssl(*arguments: str | Path, names: str = _LOOPBACK) -> None:
    environment = os.environ | {"NAMES": names}
    command = ["openssl", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=30, env=environment)
