import asyncio
from collections import deque

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.watch.interrupted import Cause, WatchInterrupted

# How many messages wait for a stream to take them. Who is so far behind has no lease any more.
QUEUE_LIMIT = 64


class Stream:
    """One who watches: what is yet to be sent, in order, until it ends.

    Attributes:
        heard_at: When it last said something, by the hub's clock.
        ended: Done when it has ended, with the reason.
    """

    __slots__ = ("_finishing", "_queue", "_ready", "_unanswered", "ended", "heard_at")

    def __init__(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.heard_at = now
        self.ended: asyncio.Future[AuthorityError] = loop.create_future()
        self._queue: deque[bytes] = deque()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._unanswered = False
        self._finishing = False

    def pinged(self, now: float) -> None:
        """Note that a ping came, which is to be answered."""
        self.heard_at = now
        self._unanswered = True

    def put(self, message: bytes, *, answers: bool = False) -> None:
        """Send a message after those before it. A stream that doesn't take them ends.

        Args:
            message: What to send.
            answers: Whether it answers the latest ping.
        """
        if self.ended.done():
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self.end(WatchInterrupted(Cause.SLOW))
            return
        self._queue.append(message)
        if answers:
            self._unanswered = False
        self._wake()

    def finish(self) -> None:
        """Note that no more pings will come: once the latest is answered, nobody wants to hear anything."""
        self._finishing = True
        self._wake()

    def end(self, error: AuthorityError) -> None:
        """End it, once, and at once: what was yet to be sent is not any more."""
        if not self.ended.done():
            self.ended.set_result(error)
            self._queue.clear()
            self._wake()

    async def take(self) -> bytes | None:
        """Return the next message, when there is one; None when there will be none. For one task alone."""
        while not self._queue:
            if self.ended.done() or (self._finishing and not self._unanswered):
                return None
            self._ready = asyncio.get_running_loop().create_future()
            await self._ready
        return self._queue.popleft()

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
