"""Authentication of every call by its API key, from memory."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from session_authority_server.background.keyring import Keyring
from session_authority_server.domain.api_key import ApiKey, Permission
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import (
    ApiKeyInvalid,
    ApiKeyMissing,
    PermissionMissing,
)
from session_authority_server.observability.instruments import Cell
from session_authority_server.observability.metrics import API_KEY_CALLS
from session_authority_server.rpc.error_table import TooManyRejectedTokens
from session_authority_server.rpc.methods import METHODS


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that calls the authority.

    Attributes:
        key_id: The id of its API key; empty if the server requires none.
        permissions: The permissions of its API key.
        name: The name of its API key; empty if the server requires none.
    """

    key_id: str = ""
    permissions: frozenset[Permission] = frozenset(Permission)
    name: str = ""


ANONYMOUS = Caller()
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANONYMOUS)

PERMISSIONS: Mapping[str, Permission] = {
    path: method.rule.permission for path, method in METHODS.items()
}

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...] | None"
# Returns the caller, from the method and the metadata of a call, or raises the reason for a refusal.
Authenticate: TypeAlias = Callable[[str, Metadata], Caller]

AUTHORIZATION = "authorization"
_SCHEME = "bearer"
# Enough for all active keys. The headers of one key differ only in upper and lower case of the word "Bearer".
_CACHED_LIMIT = 5_000


class Authentication:
    """Authenticates callers by their API keys.

    The caller that a header identifies is cached until any key changes, so a call usually costs one look-up in a
    dictionary. Only active keys are cached, so that invalid keys can't fill the cache.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._generation = keyring.generation
        self._cached: dict[str, tuple[Caller, ApiKey, Cell]] = {}

    def __call__(self, method: str, metadata: Metadata) -> Caller:
        """Authenticate a call. Return its caller.

        Raises:
            ApiKeyMissing: If the call carries no key.
            ApiKeyInvalid: If the key is unknown, or the call carries more than one.
            ApiKeyExpired: If the key has expired.
            ApiKeyRevoked: If the key was revoked.
            PermissionMissing: If the key doesn't permit the method.
            StoreUnavailable: If the last successful read of the keys is too long ago.
        """
        header = _header(metadata)
        keyring = self._keyring
        if self._generation != keyring.generation:
            self._generation, self._cached = keyring.generation, {}
        cached = self._cached.get(header)
        if cached is None:
            caller, key, calls = self._recognise(header)
        else:
            caller, key, calls = cached
            keyring.check_current()
            if key.expire_time is not None:
                keyring.check_usable(key)
        permission = PERMISSIONS.get(method)
        if permission is None or permission not in caller.permissions:
            raise PermissionMissing("" if permission is None else permission.value)
        keyring.note_use(key.key_id, permission)
        calls.value += 1
        return caller

    def _recognise(self, header: str) -> tuple[Caller, ApiKey, Cell]:
        scheme, _, presented = header.partition(" ")
        if scheme.lower() != _SCHEME:
            raise ApiKeyInvalid
        key = self._keyring.recognise(presented)
        if len(self._cached) >= _CACHED_LIMIT:
            self._cached.clear()
        caller = Caller(str(key.key_id), key.permissions, key.name)
        found = self._cached[header] = caller, key, API_KEY_CALLS.cell(caller.key_id)
        return found


def allow_every_call(method: str, _metadata: Metadata) -> Caller:
    """Permit a call without an API key. For `--insecure`.

    Raises:
        PermissionMissing: If no permission covers the method.
    """
    if method not in PERMISSIONS:
        raise PermissionMissing("")
    return ANONYMOUS


def _header(metadata: Metadata) -> str:
    """Return the header that carries the API key."""
    found = None
    for key, value in metadata or ():
        if key == AUTHORIZATION:
            # Two headers could name two callers.
            if found is not None or not isinstance(value, str):
                raise ApiKeyInvalid
            found = value
    if found is None:
        raise ApiKeyMissing
    return found


_MINUTE_SECONDS = 60.0


class RejectedTokens:
    """Limits the answers about unknown tokens for each API key, with a token bucket.

    A token is always looked up first, so this limit never refuses a valid one. A key's bucket holds the calls of one
    minute and refills evenly. Only keys that presented an unknown token have a bucket.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Set the limit in calls per minute. 0 means no limit."""
        self._clock = clock
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, datetime]] = {}

    def count(self, caller: Caller) -> TooManyRejectedTokens | None:
        """Take one call from a caller's bucket. Return the refusal if the bucket is empty."""
        if not self._per_minute:
            return None
        key_id, now = caller.key_id, self._clock.now()
        left = self._filled(key_id, now)
        if left < 1:
            return TooManyRejectedTokens(
                timedelta(seconds=(1 - left) * _MINUTE_SECONDS / self._per_minute)
            )
        self._left[key_id] = left - 1, now
        return None

    def _filled(self, key_id: str, now: datetime) -> float:
        left, then = self._left.get(key_id, (float(self._per_minute), now))
        filled = (now - then).total_seconds() * self._per_minute / _MINUTE_SECONDS
        return min(left + filled, float(self._per_minute))
