"""API keys: what a program that calls the authority proves itself with, and what each may do.

A key is spelled like a session token, but for its prefix: its id selects, its secret proves, and its
checksum refuses typing errors. The store keeps a hash of the secret.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.token import Token

KEY_PREFIX = "sak_"
NAME_LIMIT_CHARACTERS = 100
LONGEST_LIFETIME = timedelta(days=3_650)


class Permission(Enum):
    """What a caller may do; of which methods, `rpc/authentication.py` says."""

    CREATE = "create"
    VALIDATE = "validate"
    WATCH = "watch"
    MANAGE = "manage"
    TERMINATE = "terminate"


class KeyState(Enum):
    """Whether a key is good, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key used one of its permissions, to within some ten minutes.

    Attributes:
        first_time: The first time since uses are recorded.
        last_time: The last time.
    """

    first_time: datetime
    last_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of an API key.

    Attributes:
        key_id: Names it, and is no secret.
        name: What its operator calls it; several may have the same, such as one and its successor.
        permissions: What its bearer may do.
        secret_hash: Of the secret that proves it.
        create_time: When it was made.
        expire_time: From when on it is no longer good; None where it doesn't expire.
        revoke_time: When it was revoked, if it was.
        last_used_time: When it was last used, or up to ten minutes earlier; None if never.
    """

    key_id: UUID
    name: str
    permissions: frozenset[Permission]
    secret_hash: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    # Not compared: a key that was used is the same key.
    last_used_time: datetime | None = field(default=None, compare=False)

    def state(self, now: datetime) -> KeyState:
        """Return whether the key is good at a moment."""
        if self.revoke_time is not None:
            return KeyState.REVOKED
        if self.expire_time is not None and self.expire_time <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


def issue(
    name: str, permissions: frozenset[Permission], now: datetime, lifetime: timedelta | None
) -> tuple[ApiKey, str]:
    """Return a new key, as it is kept and as its bearer presents it.

    Raises:
        InvalidRequest: If the name, the permissions or the lifetime are not allowed.
    """
    violations = []
    if not (0 < len(name) <= NAME_LIMIT_CHARACTERS and name.isprintable() and name.strip() == name):
        violations.append(
            Violation(
                "name",
                f"must be 1 to {NAME_LIMIT_CHARACTERS} printable characters, without spaces around",
            )
        )
    elif tokens.mask_tokens(name) != name:
        violations.append(Violation("name", "is shown to others, and must not hold a key or token"))
    if not permissions:
        violations.append(Violation("permissions", "are missing; give at least one"))
    if lifetime is not None and not timedelta(0) < lifetime <= LONGEST_LIFETIME:
        violations.append(
            Violation("lifetime", f"must be positive and at most {LONGEST_LIFETIME.days} days")
        )
    if violations:
        raise InvalidRequest(violations)
    token = tokens.mint(now)
    key = ApiKey(
        key_id=token.id,
        name=name,
        permissions=permissions,
        secret_hash=tokens.hash_secret(token.secret),
        create_time=now,
        expire_time=None if lifetime is None else now + lifetime,
    )
    return key, token.encode(KEY_PREFIX)


def parse(text: str) -> Token | None:
    """Return the id and secret of a presented key, or None where it is no key's one spelling."""
    return tokens.parse(text, KEY_PREFIX)
