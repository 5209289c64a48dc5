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
from session_authority_server.ports import KeyStore

REFRESH_SECONDS = 0.5
# How long the keys are believed after the start of the last read that succeeded.
TRUST_SECONDS = 5.0
WRITE_SECONDS = 10.0
USE_RESOLUTION = timedelta(minutes=10)
# A key that ended longer ago is treated as unknown.
ENDED_KEYS_KEPT = timedelta(days=30)
_NO_HASH = bytes(32)
_Use: TypeAlias = tuple[UUID, Permission]

_log = logging.getLogger(__name__)


class Keyring:
    """Every API key, in memory, as the store had it half a second ago.

    A call never waits for the store to recognise its caller. Keys that were not read for TRUST_SECONDS are not
    believed, so a key that was revoked during an outage does not stay good.

    Attributes:
        generation: Changes whenever any key changes, so that others know when to forget what they looked up.
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
        # When this process last wrote each use, of keys that still exist.
        self._written: dict[_Use, datetime] = {}

    def recognise(self, presented: str) -> ApiKey:
        """Return the key that is presented.

        Raises:
            ApiKeyInvalid: If it is not a key of this authority.
            ApiKeyExpired: If it is past its time.
            ApiKeyRevoked: If it was revoked.
            StoreUnavailable: If the keys have not been read for long.
        """
        token = parse(presented)
        if token is None:
            raise ApiKeyInvalid
        self.check_current()
        key = self._keys.get(token.id)
        # Compared even for an unknown key, so that both take equally long.
        proven = tokens.proves(token.secret, _NO_HASH if key is None else key.secret_hash)
        if key is None or not proven:
            raise ApiKeyInvalid
        self.check_usable(key)
        return key

    def check_current(self) -> None:
        """Check that the keys were read within TRUST_SECONDS.

        Raises:
            StoreUnavailable: If not.
        """
        if self._monotonic() >= self._trusted_until:
            raise StoreUnavailable("checking API keys")

    def check_usable(self, key: ApiKey) -> None:
        """Check that a key is neither revoked nor past its time.

        Raises:
            ApiKeyExpired: If it is past its time.
            ApiKeyRevoked: If it was revoked.
        """
        state = key.state(self._clock.now())
        if state is KeyState.REVOKED:
            raise ApiKeyRevoked
        if state is KeyState.EXPIRED:
            raise ApiKeyExpired

    def __len__(self) -> int:
        return len(self._keys)

    def note_use(self, key_id: UUID, permission: Permission) -> None:
        """Note that a key was used, and for what, to be written later."""
        self._used.add((key_id, permission))

    async def refresh(self) -> None:
        """Read the keys.

        Raises:
            StoreUnavailable: If that fails. The keys read before are believed for a while longer.
        """
        began = self._monotonic()
        ended_after = self._clock.now() - ENDED_KEYS_KEPT
        keys = {key.key_id: key for key in await self._store.read_keys(ended_after)}
        self._trusted_until = began + TRUST_SECONDS
        self.generation += keys != self._keys
        self._keys = keys

    async def write_uses(self) -> None:
        """Write which keys were used, and for what; each use at most every ten minutes.

        Raises:
            StoreUnavailable: If that fails. The next use is written instead.
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
        """Read the keys again and again until cancelled."""
        await _run_every(self.refresh, REFRESH_SECONDS)

    async def keep_uses_written(self) -> None:
        """Write uses again and again until cancelled. Reading the keys never waits for this."""
        await _run_every(self.write_uses, WRITE_SECONDS)


async def _run_every(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StoreUnavailable:
            pass  # the store has logged it
        except Exception:  # noqa: BLE001 - the loop never stops
            _log.exception("API keys could not be read, or their uses not written")
