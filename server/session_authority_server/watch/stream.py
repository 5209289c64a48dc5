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

    __slots__ = ("_queue", "_ready", "ended", "heard_at")

    def __init__(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.heard_at = now
        self.ended: asyncio.Future[AuthorityError] = loop.create_future()
        self._queue: deque[bytes] = deque()
        self._ready: asyncio.Future[None] = loop.create_future()

    def put(self, message: bytes) -> None:
        """Send a message after those before it. A stream that doesn't take them ends."""
        if self.ended.done():
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self.end(WatchInterrupted(Cause.SLOW))
            return
        self._queue.append(message)
        if not self._ready.done():
            self._ready.set_result(None)

    def end(self, error: AuthorityError) -> None:
        """End it, once, and at once: what was yet to be sent is not any more."""
        if not self.ended.done():
            self.ended.set_result(error)
            self._queue.clear()

    async def take(self) -> bytes:
        """Return the next message, when there is one. To be called by one task alone."""
        while not self._queue:
            self._ready = asyncio.get_running_loop().create_future()
            await self._ready
        return self._queue.popleft()
