"""The keys of a provider, which are kept for a while and fetched in the background."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from session_authority.backchannel.provider import Provider
from session_authority.backchannel.signed_token import Key

FRESH_SECONDS = 600.0
"""After this time, the next token makes the program fetch the keys again."""
USABLE_SECONDS = 3_600.0
"""How long keys may be used if they can't be fetched again. A provider withdraws a key that was stolen."""
PAUSE_SECONDS = 5.0
"""The shortest time between two fetches, so that forged tokens can't make the program flood the provider."""

_log = logging.getLogger("session_authority.backchannel")


class KeysUnavailable(Exception):
    """The keys of the provider can't be fetched, so nothing is known about the token."""


class KeySource:
    """The keys of one provider. Several threads may use it."""

    def __init__(
        self,
        provider: Provider,
        fetch: Callable[[Provider], Sequence[Key]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare for a provider. The first token makes the program fetch the keys.

        Args:
            provider: The provider.
            fetch: Fetches the keys. It may block, and raises KeysUnavailable.
            clock: Returns the time of a clock that is never set, in seconds.
        """
        self._provider = provider
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Sequence[Key] = ()
        self._fetched: float | None = None  # when the fetch of the keys began
        self._tried: float | None = None  # when the latest fetch began
        self._fetching: Future[None] | None = None

    def keys(self) -> Sequence[Key]:
        """Return the keys.

        Raises:
            KeysUnavailable: There are none, or they are too old.
        """
        if self._fetched is None or self._clock() - self._fetched > USABLE_SECONDS:
            raise KeysUnavailable("the provider's keys can't be fetched")
        return self._keys

    def time(self) -> float:
        """Return the time of the clock that `has_fetched_since` compares with."""
        return self._clock()

    def has_fetched_since(self, moment: float) -> bool:
        """Say whether the keys were fetched after a moment."""
        return self._fetched is not None and self._fetched >= moment

    @property
    def is_fresh(self) -> bool:
        """Whether the keys were fetched a short time ago."""
        return self._fetched is not None and self._clock() - self._fetched <= FRESH_SECONDS

    def refresh(self) -> "Future[None] | None":
        """Fetch the keys in another thread, or join a fetch that is running.

        Returns:
            The fetch, which never fails; None if the latest one began less than PAUSE_SECONDS ago.
        """
        with self._lock:
            if self._fetching is not None:
                return self._fetching
            now = self._clock()
            if self._tried is not None and now - self._tried < PAUSE_SECONDS:
                return None
            self._tried = now
            self._fetching = fetching = Future[None]()
            fetching.set_running_or_notify_cancel()  # so that no caller can cancel it for all
        threading.Thread(
            target=self._run, args=(fetching, now), name="provider-keys", daemon=True
        ).start()
        return fetching

    def _run(self, fetching: "Future[None]", began: float) -> None:
        try:
            keys = self._fetch(self._provider)
        except KeysUnavailable as error:
            _log.warning("the keys of %s can't be fetched: %s", self._provider.issuer, error)
        else:
            self._keys, self._fetched = keys, began
        finally:
            with self._lock:
                self._fetching = None
            fetching.set_result(None)
