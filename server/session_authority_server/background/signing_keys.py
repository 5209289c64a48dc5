"""The keys that sign security events, from the operator's file. The file is read again when it changes."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode

ALGORITHM = "RS256"
"""The only algorithm of the CAEP interoperability profile."""
SMALLEST_KEY_BITS = 2048
KEYS_LIMIT = 10
FILE_LIMIT_BYTES = 64 * 1024
CHECK_SECONDS = 2.0
_TYPE = "secevent+jwt"
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)

_log = logging.getLogger(__name__)


class UnusableSigningKeys(Exception):
    """The file of signing keys can't be used. The message says why, and how to correct it."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The content of the file: the key that signs, its id, and all public keys."""

    signing: RSAPrivateKey = field(repr=False)
    key_id: str
    public: str


class SigningKeys:
    """Signs security events with the first key of a file, and publishes all keys of the file.

    To rotate, add a new key at the end, move it to the front once receivers know it, and then remove the old key.
    While a changed file can't be used, the keys that were read last stay in use.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            UnusableSigningKeys: If the file can't be used.
        """
        self._path = path
        self._monotonic = monotonic
        self._content = _content(path)
        self._keys = _parse(path, self._content)
        self._checked = monotonic()
        self._failing = False

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a signed security event token. This takes about a millisecond."""
        keys = self._current()
        headers = {"typ": _TYPE, "kid": keys.key_id}
        return jwt.encode(dict(claims), keys.signing, ALGORITHM, headers)

    def published(self) -> str:
        """Return the public keys, as the JSON of a JWK set."""
        return self._current().public

    def _current(self) -> _Keys:
        if self._monotonic() - self._checked >= CHECK_SECONDS:
            self._checked = self._monotonic()
            self._reread_if_changed()
        return self._keys

    def _reread_if_changed(self) -> None:
        """Read the file if it has changed. Log the outcome, a failure only once."""
        try:
            content = _content(self._path)
            if content == self._content:
                return
            self._keys = _parse(self._path, content)
        except UnusableSigningKeys as error:
            if not self._failing:
                _log.error("keys for events can't be reloaded; the old ones stay: %s", error)
            self._failing = True
        else:
            self._content, self._failing = content, False
            _log.info("keys for events reloaded from %s; %s signs", self._path, self._keys.key_id)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise UnusableSigningKeys(f"{path} can't be read: {error.strerror}") from None
    if len(content) > FILE_LIMIT_BYTES:
        raise UnusableSigningKeys(f"{path} is larger than {FILE_LIMIT_BYTES // 1024} KiB")
    return content


def _parse(path: Path, content: bytes) -> _Keys:
    found = [each.group() for each in _PEM.finditer(content)]
    if not 1 <= len(found) <= KEYS_LIMIT:
        raise UnusableSigningKeys(
            f"{path} has {len(found)} keys; it must have 1 to {KEYS_LIMIT} private RSA keys in the form PEM, as from: "
            "openssl genrsa 3072"
        )
    keys = [_key(path, number, pem) for number, pem in enumerate(found, 1)]
    published = [_public(key) for key in keys]
    return _Keys(keys[0], published[0]["kid"], json.dumps({"keys": published}))


def _key(path: Path, number: int, pem: bytes) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        problem = "has a passphrase; remove it"
    except Exception:  # noqa: BLE001 - the library raises many kinds of errors for bad keys
        problem = "is no private key"
    else:
        if isinstance(key, RSAPrivateKey) and key.key_size >= SMALLEST_KEY_BITS:
            return key
        problem = f"is not RSA with at least {SMALLEST_KEY_BITS} bits"
    raise UnusableSigningKeys(f"{path}: key {number} {problem}")


def _public(key: RSAPrivateKey) -> dict[str, Any]:
    """Return the JWK of the public part. Its id is its thumbprint (RFC 7638)."""
    numbers: dict[str, Any] = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwk = {"kty": "RSA", "use": "sig", "alg": ALGORITHM, "n": numbers["n"], "e": numbers["e"]}
    return {**jwk, "kid": _thumbprint(jwk)}


def _thumbprint(jwk: Mapping[str, str]) -> str:
    members = {name: jwk[name] for name in ("e", "kty", "n")}
    return base64url_encode(
        sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    ).decode()
