"""What an event loop does in its own way. `_concurrency_sync` does the same with threads.

Both are written by hand: tasks can be cancelled, threads cannot, and gRPC has a different stream for each.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TypeAlias, TypeVar

import grpc

from session_authority.errors import DeadlineExceeded

_PING_LIMIT_SECONDS = 5.0
"""A ping that takes longer to send ends its stream."""

_Connection = TypeVar("_Connection")

Place: TypeAlias = tuple[int, asyncio.AbstractEventLoop]
"""What a channel of gRPC belongs to: one event loop of one process."""

NextPing: TypeAlias = Callable[[], tuple[bytes, float] | None]
"""Returns a ping and the seconds until the next one; None when the stream is to end."""

CHANNEL_CLOSED = (grpc.aio.UsageError, asyncio.CancelledError)
"""What a call raises if its channel is closed before or during the call."""


def here() -> Place:
    """Return the place of the caller."""
    return os.getpid(), asyncio.get_running_loop()


def connect(
    connections: dict[Place, _Connection],
    make: Callable[[], _Connection],
    check_open: Callable[[], None],
) -> _Connection:
    """Make the connection of this place, and drop those of event loops that are closed."""
    check_open()
    place = process_id, _ = here()
    for owner, loop in [*connections]:
        if owner == process_id and loop.is_closed():
            connections.pop((owner, loop), None)
    return connections.setdefault(place, make())


def is_own_cancellation(error: BaseException) -> bool:
    """Say whether the running task was cancelled, rather than the call that it waits for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Background:
    """Runs a function as a task, on the first loop that starts it, and on another once that one has stopped."""

    def __init__(self, run: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        self._run = run
        self._name = name
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def start(self) -> None:
        """Make sure that the function runs."""
        if self._running is not None:
            loop, task = self._running
            if loop.is_running() and not task.done():
                return
        loop = asyncio.get_running_loop()
        self._running = loop, loop.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Stop the function, if this loop runs it."""
        running, self._running = self._running, None
        if running is None:
            return
        loop, task = running
        if loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def pause(self, seconds: float) -> None:
        """Wait, or until the function is stopped."""
        await asyncio.sleep(seconds)


class Stream:
    """A stream that sends pings, and receives messages."""

    def __init__(
        self,
        method: "grpc.aio.StreamStreamMultiCallable[bytes, bytes]",
        metadata: tuple[tuple[str, str], ...],
        next_ping: NextPing,
    ) -> None:
        self._call = method(metadata=metadata)
        self._pinging = asyncio.create_task(self._ping(next_ping))

    async def read(self) -> bytes | None:
        """Return the next message; None at the end."""
        try:
            message = await self._call.read()
        except asyncio.CancelledError as error:
            if is_own_cancellation(error):
                raise
            # The call was cancelled: no pong came, or the channel was closed.
            raise DeadlineExceeded("no pong") from None
        return message if isinstance(message, bytes) else None

    async def close(self) -> None:
        """End the stream and its pings."""
        self._pinging.cancel()
        self._call.cancel()
        await asyncio.wait([self._pinging])

    async def _ping(self, next_ping: NextPing) -> None:
        try:
            while (ping := next_ping()) is not None:
                payload, pause_seconds = ping
                async with asyncio.timeout(_PING_LIMIT_SECONDS):
                    await self._call.write(payload)
                await asyncio.sleep(pause_seconds)
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError):
            pass  # the reader gets the error
        finally:
            self._call.cancel()
