import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import ApiKey, KeyState, Permission, parse
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import (
    ApiKeyExpired,
    ApiKeyInvalid,
    ApiKeyRevoked,
    StoreUnavailable,
)
from session_authority_server.ports.store import KeyStore

REFRESH_SECONDS = 0.5
# How long the keys are trusted after the start of the last successful read.
TRUST_SECONDS = 5.0
WRITE_SECONDS = 10.0
USE_RESOLUTION = timedelta(minutes=10)
# A key that ended longer ago is treated as unknown.
ENDED_KEYS_KEPT = timedelta(days=30)
_NO_HASH = bytes(32)
_Use: TypeAlias = tuple[UUID, Permission]

_log = logging.getLogger(__name__)


class Keyring:
    """Every API key, in memory. The keys are read again every REFRESH_SECONDS.

    So no call waits for the store to check its key. If the last successful read is more than TRUST_SECONDS ago, every
    key is refused. Otherwise a key that was revoked during an outage would stay valid.

    Attributes:
        generation: Changes whenever a key changes. Callers then drop their cached results.
    """

    def __init__(
        self, store: KeyStore, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self.generation = 0
        self._keys: Mapping[UUID, ApiKey] = {}
        self._trusted_until = float("-inf")
        self._used: set[_Use] = set()
        # The time at which this process last wrote each use of an existing key.
        self._written: dict[_Use, datetime] = {}

    def recognise(self, presented: str) -> ApiKey:
        """Return the API key that a caller presents.

        Raises:
            ApiKeyInvalid: If it is not a key of this authority.
            ApiKeyExpired: If the key has expired.
            ApiKeyRevoked: If the key was revoked.
            StoreUnavailable: If the keys were not read within TRUST_SECONDS.
        """
        token = parse(presented)
        if token is None:
            raise ApiKeyInvalid
        self.check_current()
        key = self._keys.get(token.id)
        # Compare a hash even for an unknown key, so that the time taken does not reveal which keys exist.
        proven = tokens.proves(token.secret, _NO_HASH if key is None else key.secret_hash)
        if key is None or not proven:
            raise ApiKeyInvalid
        self.check_usable(key)
        return key

    def check_current(self) -> None:
        """Check that the keys were read within TRUST_SECONDS.

        Raises:
            StoreUnavailable: If the keys were not read within TRUST_SECONDS.
        """
        if self._monotonic() >= self._trusted_until:
            raise StoreUnavailable("checking API keys")

    def check_usable(self, key: ApiKey) -> None:
        """Check that a key is neither revoked nor expired.

        Raises:
            ApiKeyExpired: If the key has expired.
            ApiKeyRevoked: If the key was revoked.
        """
        state = key.state(self._clock.now())
        if state is KeyState.REVOKED:
            raise ApiKeyRevoked
        if state is KeyState.EXPIRED:
            raise ApiKeyExpired

    def __len__(self) -> int:
        return len(self._keys)

    def note_use(self, key_id: UUID, permission: Permission) -> None:
        """Record that a key used a permission. `write_uses` writes it later."""
        self._used.add((key_id, permission))

    async def refresh(self) -> None:
        """Read the keys.

        Raises:
            StoreUnavailable: If the read fails. The previous keys stay trusted until TRUST_SECONDS are over.
        """
        began = self._monotonic()
        ended_after = self._clock.now() - ENDED_KEYS_KEPT
        keys = {key.key_id: key for key in await self._store.read_keys(ended_after)}
        self._trusted_until = began + TRUST_SECONDS
        self.generation += keys != self._keys
        self._keys = keys

    async def write_uses(self) -> None:
        """Write the noted uses. The same key and permission are written at most once in USE_RESOLUTION.

        Raises:
            StoreUnavailable: If the write fails. The noted uses are lost. The next call writes only later uses.
        """
        now, used, self._used = self._clock.now(), self._used, set()
        due = {use for use in used if self._is_due(use, now)}
        await self._store.note_key_uses(due, now)
        self._written.update(dict.fromkeys(due, now))
        if due:
            self._written = {use: at for use, at in self._written.items() if use[0] in self._keys}

    def _is_due(self, use: _Use, now: datetime) -> bool:
        key = self._keys.get(use[0])
        return key is not None and any(
            written is None or now - written >= USE_RESOLUTION
            for written in (key.last_used_time, self._written.get(use))
        )

    async def keep_current(self) -> None:
        """Read the keys every REFRESH_SECONDS until cancelled."""
        await _run_every(self.refresh, REFRESH_SECONDS)

    async def keep_uses_written(self) -> None:
        """Write the uses every WRITE_SECONDS until cancelled. Reads of the keys do not wait for this."""
        await _run_every(self.write_uses, WRITE_SECONDS)


async def _run_every(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StoreUnavailable:
            pass  # The store has logged the failure.
        except Exception:  # noqa: BLE001 - the loop never stops
            _log.exception("API keys could not be read, or their uses could not be written")
