import asyncio
from collections import deque
from enum import Enum

from session_authority_server.domain.errors import AuthorityError

# The most messages that wait in a stream. A caller this far behind has lost its lease already.
QUEUE_LIMIT = 64


class Cause(Enum):
    """The reason why the server ended a stream, with the text for the caller."""

    CHANNEL_LOST = "the server may have missed changes"
    SLOW = "the caller didn't read as fast as changes arrived"
    SILENT = "the caller sent no ping for too long"
    DRAINING = "the server is shutting down"


class WatchInterrupted(AuthorityError):
    """The server ended the stream and sends no more changes on it."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(
            f"{cause.value}; drop the answers that were cached under this stream, and open a new stream"
        )
        self.cause = cause


class TooManyStreams(AuthorityError):
    """The server has reached its limit of streams."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the server has reached its limit of {limit:,} streams; try again later")
        self.limit = limit


class Stream:
    """One caller that watches changes, and the queue of its messages.

    Attributes:
        last_received_at: The time of the caller's last ping, by the hub's clock.
        ended: Done when the stream has ended, with the reason.
    """

    __slots__ = ("_finishing", "_queue", "_ready", "_unanswered", "ended", "last_received_at")

    def __init__(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.last_received_at = now
        self.ended: asyncio.Future[AuthorityError] = loop.create_future()
        self._queue: deque[bytes] = deque()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._unanswered = False
        self._finishing = False

    def pinged(self, now: float) -> None:
        """Record a ping that needs an answer."""
        self.last_received_at = now
        self._unanswered = True

    def put(self, message: bytes, *, answers: bool = False) -> None:
        """Queue a message. End the stream if QUEUE_LIMIT messages wait already.

        Args:
            message: The message to send.
            answers: Whether the message answers the latest ping.
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
        """Record that no more pings will come. The stream is over once the latest ping is answered."""
        self._finishing = True
        self._wake()

    def end(self, error: AuthorityError) -> None:
        """End the stream at once, and drop the messages that wait. Further calls change nothing."""
        if not self.ended.done():
            self.ended.set_result(error)
            self._queue.clear()
            self._wake()

    async def take(self) -> bytes | None:
        """Wait for the next message and return it, or return None once the stream is over. Only one task may wait."""
        while not self._queue:
            if self.ended.done() or (self._finishing and not self._unanswered):
                return None
            self._ready = asyncio.get_running_loop().create_future()
            await self._ready
        return self._queue.popleft()

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
