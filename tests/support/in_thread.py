"""An event loop in a thread of its own, for servers that synchronous tests use."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from tests.support.waiting import PATIENCE_SECONDS

T = TypeVar("T")


class LoopThread:
    """A thread that runs an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    @contextlib.contextmanager
    def during(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an asynchronous context in the loop, and leave it at the end of the block."""
        entered: asyncio.Future[T] = self.run(_future())
        leave = self.run(_event())

        async def live() -> None:
            try:
                async with context as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        living = asyncio.run_coroutine_threadsafe(live(), self._loop)
        try:
            yield self.run(_wait(entered))
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            living.result(PATIENCE_SECONDS)


@contextlib.contextmanager
def loop_thread() -> Iterator[LoopThread]:
    """Run an event loop in a thread until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tests-loop", daemon=True)
    thread.start()
    try:
        yield LoopThread(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _wait(future: "asyncio.Future[T]") -> T:
    return await future
