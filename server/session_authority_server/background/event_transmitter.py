"""The transmitter of security events: it signs the tokens, and encrypts the secrets of receivers."""

import hmac
import secrets
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from session_authority_server.background.signing_keys import SigningKeys
from session_authority_server.domain.receiver import Delivery
from session_authority_server.domain.security_event import claims

_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class EventTransmitter:
    """Makes the tokens of all streams.

    Attributes:
        issuer: The issuer of the tokens.
        keys: Signs the tokens.
        event_key: The operator's key, from which the key for secrets at rest is derived.
    """

    issuer: str
    keys: SigningKeys
    event_key: bytes = field(repr=False)

    def token(self, stream_id: UUID, owner: str, delivery: Delivery) -> str:
        """Return the signed token for an event of a stream."""
        return self.keys.sign(claims(self.issuer, stream_id, owner, delivery))

    def seal(self, stream_id: UUID, secret: str) -> bytes:
        """Encrypt a secret of a receiver for the store. It can be used for this stream only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, secret.encode(), stream_id.bytes)

    def unseal(self, stream_id: UUID, sealed: bytes) -> str | None:
        """Return a sealed secret; None if it was sealed with another key, or for another stream."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher().decrypt(nonce, ciphertext, stream_id.bytes).decode()
        except (InvalidTag, ValueError):
            return None

    def _cipher(self) -> AESGCM:
        return AESGCM(hmac.digest(self.event_key, b"push authorization", "sha256"))
