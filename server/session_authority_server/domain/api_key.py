"""API keys: how a program that calls the authority proves itself, and what it may do.

A key is spelled like a session token, with another prefix. The store keeps a hash of its secret.
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
    """What a caller may do. `rpc/methods.py` says which permission each RPC needs."""

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
    """When a key used one of its permissions, to within about ten minutes.

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
        permissions: What its bearer may do.
        secret_hash: The hash of its secret.
        create_time: When it was made.
        expire_time: When it expires; None if it doesn't.
        revoke_time: When it was revoked, if it was.
        last_used_time: When it was last used, to within ten minutes; None if never.
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
    """Return a new key, and the text that its bearer presents.

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
    """Return the id and secret of a presented key; None if the text is not a key."""
    return tokens.parse(text, KEY_PREFIX)
