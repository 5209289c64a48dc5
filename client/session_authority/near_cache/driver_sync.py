# Generated from driver_aio.py by `make sync`. Do not edit.
"""The driver of the near cache: it follows the stream of changes from threads and so renews the lease."""

from collections.abc import Callable, Sequence
from functools import partial

from session_authority._concurrency_sync import (
    Background,
    NextPing,
    Place,
    Stream,
    connect,
    here,
)
from session_authority.errors import ClientClosed, SessionAuthorityError, Unavailable
from session_authority.near_cache import stream
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.keeper_sync import Keeper
from session_authority.near_cache.lease import lease_clock
from session_authority.near_cache.operations import decoded
from session_authority.near_cache.options import NearCache


class Driver:
    """Follows the stream of changes, and opens a new stream when one is lost."""

    def __init__(
        self,
        settings: NearCache,
        watch: Callable[[NextPing], Stream],
        failed: Callable[[SessionAuthorityError], None],
        on_due: Callable[[Due], None],
        ask: Callable[[Sequence[str]], None],
        *,
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        """Start with an empty cache. The first `follow` opens the stream.

        Args:
            settings: The app's settings of the near cache.
            watch: Opens a stream, which sends the given pings.
            failed: Logs why a stream ended.
            on_due: Sends a report of use. It must not wait.
            ask: Asks the authority about tokens. It must not wait for the answers.
            clock: Returns the time on the lease clock.
        """
        self.core = NearCacheCore(settings, decoded, on_due)
        self.lookup = self.core.lookup
        self.now = clock
        self._watch = watch
        self._failed = failed
        self._ask = ask
        self._keepers: dict[Place, Keeper] = {}
        self._background = Background(self._follow, "session-authority-watch")
        self.follow = self._background.start

    def keeper(self) -> Keeper:
        """Return the keeper of the subscriptions that are made here.

        Raises:
            ClientClosed: The client is closed.
        """
        found = self._keepers.get(here())
        return found or connect(self._keepers, self._new_keeper, lambda: None)

    def stop(self) -> None:
        """End all subscriptions, and the background work that follows the stream."""
        self.core.close()
        keeper = self._keepers.pop(here(), None)
        if keeper is not None:
            keeper.stop()
        self._background.stop()

    def _new_keeper(self) -> Keeper:
        return Keeper(self.core, self.now, self._ask)

    def _follow(self) -> None:
        backoff = stream.Backoff()
        while True:
            generation = self.core.stream_opened()
            error: SessionAuthorityError | None = None
            try:
                error = self._follow_one(generation, backoff)
            finally:
                wanted = self.core.stream_lost(generation, None if error is None else str(error))
            if not wanted or isinstance(error, ClientClosed):
                return
            self._failed(error)
            self._background.pause(backoff.next_seconds(error, stream.chance()))

    def _follow_one(self, generation: int, backoff: stream.Backoff) -> SessionAuthorityError:
        """Follow one stream until it ends, and return its error."""
        try:
            opened = self._watch(partial(stream.next_ping, self.core, generation, self.now))
        except ClientClosed as error:
            return error
        try:
            while (payload := opened.read()) is not None:
                stream.apply(self.core, generation, payload)
                backoff.succeeded()
        except Exception as error:  # noqa: BLE001 - the driver goes on with the next stream
            return stream.fault_of(error)
        finally:
            opened.close()
        return Unavailable("the stream ended")
