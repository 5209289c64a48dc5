"""Connections, background work and streams on an event loop. `_concurrency_sync` does the same with threads.

Both are written by hand. Tasks can be cancelled, but threads cannot, and gRPC has a different stream type for each.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import TypeAlias, TypeVar

import grpc

from session_authority.errors import DeadlineExceeded, EndCallback, SessionAuthorityError

_PING_LIMIT_SECONDS = 5.0
"""If sending a ping takes longer, the stream ends."""

_Connection = TypeVar("_Connection")

Place: TypeAlias = tuple[int, asyncio.AbstractEventLoop]
"""The owner of a gRPC channel: one event loop of one process."""

NextPing: TypeAlias = Callable[[], tuple[bytes, float] | None]
"""Returns a ping and the seconds until the next ping; None to end the stream."""

CHANNEL_CLOSED = (grpc.aio.UsageError, asyncio.CancelledError)
"""The exceptions of a call whose channel is closed before or during the call."""


def here() -> Place:
    """Return the current process and event loop."""
    return os.getpid(), asyncio.get_running_loop()


def connect(
    connections: dict[Place, _Connection],
    make: Callable[[], _Connection],
    check_open: Callable[[], None],
) -> _Connection:
    """Create the connection of this event loop. Remove the connections of closed event loops."""
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
    """Runs a function as a task of the first event loop that starts it.

    Once that loop has stopped, the next `start` on another loop runs the function there.
    """

    def __init__(self, run: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        self._run = run
        self._name = name
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def start(self) -> None:
        """Start the function unless it is running."""
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
        """Wait. `stop` ends the wait early."""
        await asyncio.sleep(seconds)


class Alarm:
    """Wakes the task that waits for it. Any thread may ring it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._is_rung = False

    def ring(self) -> None:
        """End the current wait, or the next one."""
        if not self._is_rung:
            self._is_rung = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait until the alarm rings, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()
        self._is_rung = False


class Callbacks:
    """Calls the app's callbacks on the running event loop. The loop reports their exceptions."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Future[object]] = set()

    def later(self, callback: EndCallback) -> EndCallback:
        """Return a function that schedules a callback, in the context of the caller of this method."""
        context = copy_context()

        def schedule(error: SessionAuthorityError) -> None:
            self._loop.call_soon(self._call, callback, error, context=context)

        return schedule

    def _call(self, callback: EndCallback, error: SessionAuthorityError) -> None:
        result = callback(error)
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(result)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class Stream:
    """A stream that sends pings and receives messages."""

    def __init__(
        self,
        method: "grpc.aio.StreamStreamMultiCallable[bytes, bytes]",
        metadata: tuple[tuple[str, str], ...],
        next_ping: NextPing,
    ) -> None:
        self._call = method(metadata=metadata)
        self._pinging = asyncio.create_task(self._ping(next_ping))

    async def read(self) -> bytes | None:
        """Return the next message; None at the end of the stream."""
        try:
            message = await self._call.read()
        except asyncio.CancelledError as error:
            if is_own_cancellation(error):
                raise
            # The call was cancelled, not this task: no pong came, or the channel was closed.
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
            pass  # `read` raises the error
        finally:
            self._call.cancel()
