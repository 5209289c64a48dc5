"""Calls that are safe to repeat: the same retry secret and parameters give the same token.

The token's secret is derived from the caller's retry secret and a random salt. The store keeps the salt until the
retry window closes. Neither the store's data (salt and hash) nor a caller's log (retry secret) is enough to derive the
token. Once the salt is deleted, even both together are not enough.
"""

import hmac
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that can be repeated.

    Attributes:
        purpose: The kind of call.
        caller: The calling program. A call of another program is never a repetition.
        subject: The user of a sign-in, or the token of a re-authentication.
        retry_secret: The secret that the caller sent.
        parameters: Everything else in the request, in a form that JSON can hold.
    """

    purpose: str
    caller: str
    subject: str = field(repr=False)  # may be a token
    retry_secret: bytes = field(repr=False)
    parameters: object = field(repr=False)

    @property
    def retry_hash(self) -> bytes:
        """The hash under which the store keeps the answer."""
        return sha256(_joined(self.purpose, self.caller) + self.retry_secret).digest()

    @property
    def parameters_hash(self) -> bytes:
        """The hash that distinguishes a repetition from a different call with the same retry secret."""
        parameters = json.dumps([self.subject, self.parameters], sort_keys=True)
        return sha256(parameters.encode()).digest()

    def derive_secret(self, salt: bytes) -> bytes:
        """Return the token secret of this call, derived with a salt."""
        message = _joined(self.purpose, self.caller, self.subject) + self.retry_secret
        return hmac.digest(salt, message, "sha256")

    def answered(self, session_id: UUID, salt: bytes, expire_time: datetime) -> "AnsweredAttempt":
        """Return the data from which a repetition gets the same answer."""
        return AnsweredAttempt(self.retry_hash, self.parameters_hash, session_id, salt, expire_time)


@dataclass(frozen=True, slots=True)
class AnsweredAttempt:
    """The stored data of a repeatable call. It expires when the retry window closes."""

    retry_hash: bytes
    parameters_hash: bytes
    session_id: UUID
    salt: bytes = field(repr=False)
    expire_time: datetime


def new_salt() -> bytes:
    """Return a salt from the system's random generator."""
    return secrets.token_bytes(SALT_BYTES)


def _joined(*parts: str) -> bytes:
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(4) + part for part in encoded)
