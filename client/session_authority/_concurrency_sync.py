"""Connections, background work and streams with threads. `_concurrency_aio` does the same on an event loop."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias, TypeVar

import grpc

from session_authority.errors import ClientClosed

_STOP_SECONDS = 1.0


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
