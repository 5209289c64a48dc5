"""Session tokens: the secret texts that devices hold, and the only proof of a session.

A token is a prefix and 70 base62 characters. They encode 52 bytes: the id (16), the secret (32), and a CRC-32 over the
prefix and both. The checksum rejects typing errors and garbage without a read of the store, and lets scanners
recognise a leaked token with certainty. Each token has exactly one spelling.
"""

import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

SESSION_PREFIX = "ses_"
SECRET_BYTES = 32
SUPERSEDED_HASHES_KEPT = 16
# How many proofs are cached. Each takes about 500 bytes.
PROOFS_LIMIT = 20_000
_ID_BYTES = 16
_CHECKSUM_BYTES = 4
_VALUE_BYTES = _ID_BYTES + SECRET_BYTES + _CHECKSUM_BYTES
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE_DIGITS = 70  # 62 ** 70 is the first power of 62 above 256 ** 52
_NO_DIGIT = 0xFF
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGIT_VALUES = bytes(
    _DIGITS.index(chr(byte)) if chr(byte) in _DIGITS else _NO_DIGIT for byte in range(256)
)
_BITS_BEHIND_ID = 8 * (SECRET_BYTES + _CHECKSUM_BYTES)
_VALUE_LIMIT = 1 << (8 * _VALUE_BYTES)

TOKEN_LENGTH = len(SESSION_PREFIX) + _VALUE_DIGITS
TOKEN_PATTERN = re.compile(rf"(?:ses|sak)_[0-9A-Za-z]{{{_VALUE_DIGITS}}}")


class Proof(NamedTuple):
    """A presented token without its secret: the id, and the hash of the secret."""

    id: UUID
    secret_hash: bytes

    def matches(self, secret_hash: bytes) -> bool:
        """Return whether the secret is the one that a session has now. The time is constant."""
        return hmac.compare_digest(self.secret_hash, secret_hash)


_proofs: dict[bytes, Proof] = {}


@dataclass(slots=True)
class Token:
    """An id and the secret that proves the right to use it.

    Not frozen: freezing doubles the cost of creating one.
    """

    id: UUID
    secret: bytes = field(repr=False)

    @property
    def proof(self) -> Proof:
        """The proof that this token gives."""
        return Proof(self.id, hash_secret(self.secret))

    def encode(self, prefix: str = SESSION_PREFIX) -> str:
        """Return the token as text."""
        body = self.id.bytes + self.secret
        value = int.from_bytes(body + _checksum(prefix, body))
        digits = []
        for _ in range(_VALUE_DIGITS):
            value, digit = divmod(value, len(_DIGITS))
            digits.append(_DIGITS[digit])
        return prefix + "".join(reversed(digits))


def mint(now: datetime) -> Token:
    """Return a token with a new time-ordered id and 256 random bits from the system's generator."""
    return Token(new_id(now), secrets.token_bytes(SECRET_BYTES))


def parse(text: str, prefix: str = SESSION_PREFIX) -> Token | None:
    """Return the token that a text encodes; None if the text is not a token."""
    if (
        len(text) != len(prefix) + _VALUE_DIGITS
        or not text.startswith(prefix)
        or not text.isascii()
    ):
        return None
    digits = text[len(prefix) :].encode().translate(_DIGIT_VALUES)
    if _NO_DIGIT in digits:
        return None
    value = _from_base62(digits)
    if value >= _VALUE_LIMIT:
        return None
    encoded = value.to_bytes(_VALUE_BYTES)
    body = encoded[:-_CHECKSUM_BYTES]
    if encoded[-_CHECKSUM_BYTES:] != _checksum(prefix, body):
        return None
    return Token(UUID(int=value >> _BITS_BEHIND_ID), body[_ID_BYTES:])


def parse_proof(text: str) -> Proof | None:
    """Return the proof that a session token gives; None if the text is not a token.

    Proofs are cached by the hash of the text, because parsing takes ten times as long as hashing. The cache contains
    no token and no secret.
    """
    if len(text) != TOKEN_LENGTH or not text.isascii():
        return None
    key = sha256(text.encode()).digest()
    proof = _proofs.get(key)
    if proof is None and (token := parse(text)) is not None:
        if len(_proofs) >= PROOFS_LIMIT:
            del _proofs[next(iter(_proofs))]
        proof = _proofs[key] = token.proof
    return proof


def hash_secret(secret: bytes) -> bytes:
    """Return the hash of a secret, as the store keeps it.

    Plain SHA-256 is enough: the secret has 256 random bits, so a slow hash would protect nothing more.
    """
    return sha256(secret).digest()


def proves(secret: bytes, secret_hash: bytes) -> bool:
    """Return whether a hash belongs to a secret. The time is constant."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)


def is_superseded(secret_hash: bytes, superseded_hashes: bytes) -> bool:
    """Return whether a secret's hash is among a session's superseded hashes."""
    step = len(secret_hash)
    found = False
    for at in range(0, len(superseded_hashes), step):
        found |= hmac.compare_digest(secret_hash, superseded_hashes[at : at + step])
    return found


def supersede(secret_hash: bytes, superseded_hashes: bytes) -> bytes:
    """Add a hash to the superseded ones. Drop the oldest above SUPERSEDED_HASHES_KEPT."""
    return (superseded_hashes + secret_hash)[-SUPERSEDED_HASHES_KEPT * len(secret_hash) :]


def new_id(now: datetime) -> UUID:
    """Return a UUID version 7 (RFC 9562, section 5.7): milliseconds, then 74 random bits.

    Ids in time order keep sessions that expire together on the same pages of the store.
    """
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def first_id(moment: datetime) -> UUID:
    """Return a lower bound of the ids created since a moment. Ids of earlier milliseconds are below it."""
    milliseconds = max(0, (moment - _UNIX_EPOCH) // timedelta(milliseconds=1))
    return UUID(int=milliseconds << 80)


def time_of(session_id: UUID) -> datetime:
    """Return the creation time in an id, rounded down to the millisecond."""
    return _UNIX_EPOCH + timedelta(milliseconds=session_id.int >> 80)


def mask_tokens(text: str) -> str:
    """Return a text with each session token and API key cut to its prefix."""
    return TOKEN_PATTERN.sub(lambda found: found.group()[:4] + "…", text)


def _steps() -> list[tuple[int, int, int]]:
    lanes_bits = 1024  # holds 128 digits of one byte, more than a token has
    steps, width, base = [], 8, len(_DIGITS)
    while width < lanes_bits:
        low_lanes = sum(((1 << width) - 1) << at for at in range(0, lanes_bits, 2 * width))
        steps.append((width, low_lanes, base))
        width, base = 2 * width, base * base
    return steps


_STEPS = _steps()


def _from_base62(digits: bytes) -> int:
    """Return the value of base62 digits, one digit a byte.

    Each step merges all pairs of neighbouring lanes of one large integer at once. 7 steps replace a loop over 70
    digits, in a fifth of its time.
    """
    value = int.from_bytes(digits)
    for width, low_lanes, base in _STEPS:
        value = (value >> width & low_lanes) * base + (value & low_lanes)
    return value


def _checksum(prefix: str, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(prefix.encode())).to_bytes(_CHECKSUM_BYTES)
