from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from session_authority_server.domain.api_key import ApiKey, KeyState, Permission, issue
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import KeyCreated, KeyExpirySet, KeyRevoked
from session_authority_server.ports.store import NO_AUDIT, Audit, KeyStore

KEY_LIMIT = 1_000


class TooManyKeys(Exception):
    """There are already KEY_LIMIT active keys. Every server keeps all of them in memory."""

    def __init__(self) -> None:
        super().__init__(
            f"there are already {KEY_LIMIT:,} active keys, which is the limit; revoke some"
        )


class KeyNotFound(Exception):
    """No key has this id."""

    def __init__(self, key_id: UUID) -> None:
        super().__init__(f"there is no key {key_id}; `session-authority keys list` shows all keys")


class KeyAlreadyEnded(Exception):
    """The key has expired or was revoked, so it can't be changed or replaced."""

    def __init__(self, key_id: UUID, state: KeyState) -> None:
        super().__init__(f"the key {key_id} is already {state.value}")


class ApiKeys:
    """Manages API keys for operators. Every server applies a change within a second."""

    def __init__(self, store: KeyStore, clock: Clock, audit: Audit = NO_AUDIT) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit

    async def list(self) -> Sequence[ApiKey]:
        """Return every key, also ended ones, the oldest first.

        Raises:
            StoreUnavailable: If the store failed. Every method of this class raises it.
        """
        return await self._store.read_keys()

    async def create(
        self, name: str, permissions: frozenset[Permission], lifetime: timedelta | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key. Return it, and the text that its bearer presents.

        Raises:
            InvalidRequest: If the name, the permissions or the lifetime are not allowed.
            TooManyKeys: If there are already KEY_LIMIT active keys.
        """
        now = self._clock.now()
        key, presented = issue(name, permissions, now, lifetime)
        kept = await self._store.read_keys()
        if sum(each.state(now) is KeyState.ACTIVE for each in kept) >= KEY_LIMIT:
            raise TooManyKeys
        await self._store.add_key(key)
        self._audit.record(KeyCreated(str(key.key_id), now))
        return key, presented

    async def rotate(
        self, key_id: UUID, overlap: timedelta, lifetime: timedelta | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key's successor with the same name and permissions. The old key expires after an overlap.

        Args:
            key_id: The old key.
            overlap: How long both keys are accepted.
            lifetime: The new key's lifetime; None if it never expires.

        Raises:
            InvalidRequest: If the lifetime is not allowed.
            KeyNotFound: If there is no such key.
            KeyAlreadyEnded: If it has expired or was revoked.
        """
        old, now = await self._find(key_id), self._clock.now()
        key, presented = issue(old.name, old.permissions, now, lifetime)
        if not await self._store.expire_key(key_id, now + overlap, now, key):
            raise KeyAlreadyEnded(key_id, (await self._find(key_id)).state(now))
        self._audit.record(KeyCreated(str(key.key_id), now))
        self._record_end(old, await self._find(key_id), now)
        return key, presented

    async def expire(self, key_id: UUID, within: timedelta) -> ApiKey:
        """Make a key expire after the time `within`, unless it expires earlier. Return the changed key.

        Raises:
            KeyNotFound: If there is no such key.
            KeyAlreadyEnded: If it has expired or was revoked.
        """
        before, now = await self._find(key_id), self._clock.now()
        if not await self._store.expire_key(key_id, now + within, now):
            raise KeyAlreadyEnded(key_id, (await self._find(key_id)).state(now))
        after = await self._find(key_id)
        self._record_end(before, after, now)
        return after

    async def revoke(self, key_id: UUID) -> ApiKey:
        """Revoke a key at once, even an expired one, and return it. If it was already revoked, nothing changes.

        Raises:
            KeyNotFound: If there is no such key.
        """
        await self._find(key_id)
        now = self._clock.now()
        if await self._store.revoke_key(key_id, now):
            self._audit.record(KeyRevoked(str(key_id), now))
        return await self._find(key_id)

    def _record_end(self, before: ApiKey, after: ApiKey, now: datetime) -> None:
        if after.expire_time is not None and after.expire_time != before.expire_time:
            self._audit.record(KeyExpirySet(str(after.key_id), after.expire_time, now))

    async def _find(self, key_id: UUID) -> ApiKey:
        for key in await self._store.read_keys():
            if key.key_id == key_id:
                return key
        raise KeyNotFound(key_id)
