"""A transmitter of security events, with keys that are made once for all tests of a process."""

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from session_authority_server.background.event_transmitter import EventTransmitter
from session_authority_server.background.signing_keys import SigningKeys

ISSUER = "https://signals.example.com"
EVENT_KEY = b"e" * 32


@cache
def pem(number: int = 0, bits: int = 2048) -> bytes:
    """Return a private RSA key. Each number has its own."""
    key = rsa.generate_private_key(65537, bits)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_file(folder: Path, *numbers: int) -> Path:
    """Write a file of keys, and return its path."""
    path = folder / "events.pem"
    path.write_bytes(b"".join(pem(each) for each in numbers or (0,)))
    return path


def a_transmitter(folder: Path, issuer: str = ISSUER) -> EventTransmitter:
    return EventTransmitter(issuer, SigningKeys(key_file(folder)), EVENT_KEY)
