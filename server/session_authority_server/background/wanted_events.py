import asyncio
import logging
import time
from collections.abc import Callable, Set

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.receiver import EventType
from session_authority_server.ports.outbox import ReceiverStore

REFRESH_SECONDS = 2.0
# How long the types are trusted after the start of the last successful read.
TRUST_SECONDS = 6.0
ALL_TYPES = frozenset(EventType)

_log = logging.getLogger(__name__)


class WantedEvents:
    """The types of events that any receiver wants, in memory. They are read again every REFRESH_SECONDS.

    So a transaction that no receiver wants to hear of has no statement more. Without a successful read within
    TRUST_SECONDS, all types count as wanted. The INSERT of an event then finds the receivers by itself.
    """

    def __init__(
        self, store: ReceiverStore, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._types: frozenset[EventType] = ALL_TYPES
        self._trusted_until = float("-inf")

    def types(self) -> Set[EventType]:
        """Return the types that receivers want, and EventType.TEST if there may be any receiver."""
        return self._types if self._monotonic() < self._trusted_until else ALL_TYPES

    async def refresh(self) -> None:
        """Read the types.

        Raises:
            StoreUnavailable: If the read fails.
        """
        began = self._monotonic()
        self._types = await self._store.wanted()
        self._trusted_until = began + TRUST_SECONDS

    async def keep_current(self) -> None:
        """Read the types every REFRESH_SECONDS until cancelled."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable:
                pass  # The store has logged the cause.
            except Exception:  # noqa: BLE001 - the loop never stops
                _log.exception("the types of events that receivers want could not be read")
            await asyncio.sleep(REFRESH_SECONDS)
