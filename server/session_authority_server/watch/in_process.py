import asyncio
import logging
from collections.abc import Awaitable, Callable

from session_authority_server.domain.changes import Changes
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.watch.channel import Receiver

RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class InProcessChannel:
    """The channel where all changes are made by this process, to a database with one writer (`store.Listener`).

    A commit of which it isn't known whether it succeeded may yet do so, after it was told of: the channel is
    then lost, and up again once another transaction has had the one writer's turn.
    """

    def __init__(self, take_turn: Callable[[], Awaitable[object]]) -> None:
        """Take what takes the one writer's turn, and returns when nobody else has it."""
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
        # A commit may have happened of which this thread hasn't heard. There is one writer, so that they end
        # in the order in which they began.
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
            _log.warning("whether a change was made is not known; no cache may be used until it is")
            while not await self._is_known():  # noqa: ASYNC110 - there is nothing that would tell
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_known(self) -> bool:
        try:
            await self._take_turn()
        except StoreUnavailable:
            return False
        return True
