"""Connections, background work and streams with threads. `_concurrency_aio` does the same on an event loop."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias, TypeVar

import grpc

from session_authority.errors import ClientClosed, EndCallback, SessionAuthorityError

CALLBACK_THREADS_LIMIT = 16
"""The number of threads that call callbacks."""

_STOP_SECONDS = 1.0
_IDLE_SECONDS = 1.0

_log = logging.getLogger("session_authority")


class _Closable(Protocol):
    """A connection that can be closed."""

    def close(self) -> None: ...


class _Call(Iterator[bytes], Protocol):
    """A gRPC stream."""

    def cancel(self) -> bool: ...


_Connection = TypeVar("_Connection", bound=_Closable)

Place: TypeAlias = int
"""The owner of a gRPC channel: one process."""

NextPing: TypeAlias = Callable[[], tuple[bytes, float] | None]
"""Returns a ping and the seconds until the next ping; None to end the stream."""

CHANNEL_CLOSED = (ValueError,)
"""The exceptions of a call whose channel is closed before the call."""

here = os.getpid


def connect(
    connections: dict[Place, _Connection],
    make: Callable[[], _Connection],
    check_open: Callable[[], None],
) -> _Connection:
    """Create the connection of this process, unless another thread was faster.

    There is no lock, because a fork could inherit it locked. Concurrent threads each create a connection. All except
    one close theirs, which has not connected yet.
    """
    place, made = here(), make()
    kept = connections.setdefault(place, made)
    if kept is not made:
        made.close()
    try:
        check_open()
    except ClientClosed:  # another thread closed the client before this connection was stored
        connections.pop(place, None)
        kept.close()
        raise
    return kept


def is_own_cancellation(_error: BaseException) -> bool:
    """Return False: a thread cannot be cancelled."""
    return False


class Background:
    """Runs a function in a thread."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self._run = run
        self._name = name
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it has been started. If that fails, the next `start` tries again."""
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                # A validation starts the thread, but must not fail without it.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def stop(self) -> None:
        """End the function's pause, and wait up to a second for the function to return."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait. `stop` ends the wait early."""
        self._stopped.wait(seconds)


class Alarm:
    """Wakes the thread that waits for it. Any thread may ring it."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.ring = self._rung.set

    def wait(self, seconds: float | None) -> None:
        """Wait until the alarm rings, or until the time is over."""
        self._rung.wait(seconds)
        self._rung.clear()


class Callbacks:
    """Calls the app's callbacks in a few threads, so that one that blocks does not delay the others.

    The threads start when they are needed, and end when they have been idle for a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[EndCallback, SessionAuthorityError]] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    def later(self, callback: EndCallback) -> EndCallback:
        """Return a function that hands a callback to a thread."""
        return partial(self._hand_over, callback)

    def _hand_over(self, callback: EndCallback, error: SessionAuthorityError) -> None:
        with self._lock:
            self._waiting.put((callback, error))
            self._unfinished += 1
            if self._unfinished <= self._threads or self._threads >= CALLBACK_THREADS_LIMIT:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="session-authority-callback", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                callback, error = self._waiting.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._unfinished < self._threads:
                        self._threads -= 1
                        return
                continue
            try:
                callback(error)
            except BaseException:  # noqa: BLE001 - a callback must not end the thread either
                _log.exception("a callback of on_end raised an exception")
            finally:
                with self._lock:
                    self._unfinished -= 1


class Stream:
    """A stream that sends pings and receives messages."""

    def __init__(
        self,
        method: "grpc.StreamStreamMultiCallable[bytes, bytes]",
        metadata: tuple[tuple[str, str], ...],
        next_ping: NextPing,
    ) -> None:
        self._ended = threading.Event()
        self._call: _Call | None = None
        self._call = method(self._pings(next_ping), metadata=metadata)

    def read(self) -> bytes | None:
        """Return the next message; None at the end of the stream."""
        assert self._call is not None
        return next(self._call, None)

    def close(self) -> None:
        """End the stream and its pings."""
        self._ended.set()
        if self._call is not None:
            self._call.cancel()

    def _pings(self, next_ping: NextPing) -> Iterator[bytes]:
        # gRPC iterates over the pings in a thread of its own.
        while (ping := next_ping()) is not None:
            payload, pause_seconds = ping
            yield payload
            if self._ended.wait(pause_seconds):
                return
        self.close()
