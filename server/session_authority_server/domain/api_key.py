"""API keys: they identify calling programs and hold their permissions.

A key has the form of a session token with another prefix. The store keeps a hash of its secret.
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
    """A permission of an API key. `rpc/methods.py` lists the permission that each RPC needs."""

    CREATE = "create"
    VALIDATE = "validate"
    WATCH = "watch"
    MANAGE = "manage"
    TERMINATE = "terminate"
    RECEIVE = "receive"


class KeyState(Enum):
    """Whether a key is active, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key used one of its permissions. The times are accurate to about ten minutes.

    Attributes:
        first_time: The first recorded use.
        last_time: The latest recorded use.
    """

    first_time: datetime
    last_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key, as the store keeps it.

    Attributes:
        key_id: Its public id.
        name: The operator's name for it. Several keys may share one, such as a key and its successor.
        permissions: The permissions of its bearer.
        secret_hash: The hash of its secret.
        create_time: When it was created.
        expire_time: When it expires; None if it never does.
        revoke_time: When it was revoked; None if it was not.
        last_used_time: When it was last used, to within ten minutes; None if never.
    """

    key_id: UUID
    name: str
    permissions: frozenset[Permission]
    secret_hash: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    # Not compared, because a used key is still the same key.
    last_used_time: datetime | None = field(default=None, compare=False)

    def state(self, now: datetime) -> KeyState:
        """Return whether the key is active at a moment, and if not, why."""
        if self.revoke_time is not None:
            return KeyState.REVOKED
        if self.expire_time is not None and self.expire_time <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


def issue(
    name: str, permissions: frozenset[Permission], now: datetime, lifetime: timedelta | None
) -> tuple[ApiKey, str]:
    """Return a new key, and the text that its bearer presents.

    Raises:
        InvalidRequest: If the name, the permissions or the lifetime are not allowed.
    """
    violations = []
    if not (0 < len(name) <= NAME_LIMIT_CHARACTERS and name.isprintable() and name.strip() == name):
        violations.append(
            Violation(
                "name",
                f"must be 1 to {NAME_LIMIT_CHARACTERS} printable characters, without surrounding spaces",
            )
        )
    elif tokens.mask_tokens(name) != name:
        violations.append(
            Violation("name", "is visible to others; it must not contain a key or a token")
        )
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
    """Return the id and secret of a presented key; None if the text is not a key."""
    return tokens.parse(text, KEY_PREFIX)
