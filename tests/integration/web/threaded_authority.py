"""An authority in a separate thread, for tests whose code blocks."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from session_authority_server.background.event_transmitter import EventTransmitter
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.policy import Policy
from tests.support.authority import Authority, running_authority

T = TypeVar("T")
WAIT_SECONDS = 60


@dataclass
class ThreadedAuthority:
    """The authority, and a method to run coroutines in its thread."""

    authority: Authority
    _loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.authority.address

    @property
    def key(self) -> str:
        return self.authority.key

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)


class _GoingClock(ManualClock):
    """Clock that shows the real time, plus all advances."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self._started = time.monotonic()

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=time.monotonic() - self._started)


@contextmanager
def threaded_authority(
    folder: Path,
    *,
    rejected_tokens_per_minute: int = 0,
    transmitter: EventTransmitter | None = None,
) -> Iterator[ThreadedAuthority]:
    """Run an authority whose clock shows the real time, plus all advances."""
    started: Future[ThreadedAuthority] = Future()
    stop = threading.Event()

    async def run() -> None:
        try:
            async with running_authority(
                folder,
                Policy(),
                clock=_GoingClock(datetime.now(UTC)),
                rejected_tokens_per_minute=rejected_tokens_per_minute,
                transmitter=transmitter,
            ) as authority:
                started.set_result(ThreadedAuthority(authority, asyncio.get_running_loop()))
                await asyncio.to_thread(stop.wait)
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        yield started.result(WAIT_SECONDS)
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)
