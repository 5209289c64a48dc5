"""A user's sign-in at an identity provider. The authority keeps only hashes of it."""

import json
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256


class Part(Enum):
    """The part of an identity that a hash covers, beside the issuer."""

    SUBJECT = "subject"
    SID = "sid"


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """The key that finds the sessions of a user of a provider, or those of one session there."""

    part: Part
    digest: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """A sign-in at a provider, in the words of its ID token. An empty `sid` means that the provider gave none."""

    issuer: str
    subject: str
    sid: str = ""

    @property
    def keys(self) -> tuple[IdentityKey, ...]:
        """The keys under which the session can be found."""
        by_subject = key_of(Part.SUBJECT, self.issuer, self.subject)
        return (by_subject, key_of(Part.SID, self.issuer, self.sid)) if self.sid else (by_subject,)


def key_of(part: Part, issuer: str, value: str) -> IdentityKey:
    """Return the key for a subject or session id of a provider."""
    # JSON keeps the texts apart, whatever they contain.
    return IdentityKey(part, sha256(json.dumps([part.value, issuer, value]).encode()).digest())
