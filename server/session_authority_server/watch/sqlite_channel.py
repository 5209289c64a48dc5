import asyncio
import logging
from collections.abc import Awaitable, Callable

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Changes
from session_authority_server.watch.channel import Receiver

RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class SqliteChannel:
    """The channel for SQLite. This process makes all changes itself, one transaction at a time (`ports.store.Listener`).

    A commit with an unknown outcome may still succeed after its changes were delivered. The channel is then lost. It
    is up again once a later transaction has finished.
    """

    def __init__(self, take_turn: Callable[[], Awaitable[object]]) -> None:
        """Create the channel.

        Args:
            take_turn: Runs an empty transaction after the transactions in flight.
        """
        self._take_turn = take_turn
        self._receiver: Receiver | None = None
        self._begun = 0
        self._ended = 0
        self._probes: list[tuple[int, int]] = []
        self._doubt = asyncio.Event()

    def committing(self) -> None:
        self._begun += 1

    def committed(self, changes: Changes, *, certain: bool) -> None:
        self._ended += 1
        if not certain:
            self._doubt.set()
        if self._receiver is not None:
            self._receiver.changed(changes)
            if not certain:
                self._receiver.lost()
            self._return(self._receiver)

    def probe(self, number: int) -> None:
        # The database may have committed a transaction before the event loop knows. Transactions end in the order in
        # which they began, so the probe waits for those that have begun.
        self._probes.append((self._begun, number))
        if self._receiver is not None:
            self._return(self._receiver)

    def _return(self, receiver: Receiver) -> None:
        while self._probes and self._probes[0][0] <= self._ended:
            receiver.returned(self._probes.pop(0)[1])

    async def run(self, receiver: Receiver) -> None:
        self._receiver = receiver
        while True:
            if not self._doubt.is_set():
                receiver.up()
            await self._doubt.wait()
            self._doubt.clear()
            _log.warning(
                "the outcome of a commit is unknown; near caches get no answers until it is known"
            )
            while not await self._is_known():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_known(self) -> bool:
        try:
            await self._take_turn()
        except StoreUnavailable:
            return False
        return True
