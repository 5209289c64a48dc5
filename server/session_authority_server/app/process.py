"""How a process of the server or of the worker begins and ends."""

import asyncio
import contextlib
import ctypes
import gc
import signal

_M_MMAP_THRESHOLD = -3  # mallopt(3), in glibc's malloc.h
_LARGE_BLOCK_BYTES = 32 * 1024


class CannotStart(Exception):
    """The server or worker can't start. The message says why, and what to do."""


class StoppedServing(Exception):
    """gRPC takes no more calls on, though no operator stopped it."""

    def __init__(self) -> None:
        super().__init__("gRPC stopped taking calls on, as the log says; start the server anew")


def tune_memory() -> None:
    """Run the garbage collector rarely, and return large freed blocks to the system at once.

    A call makes many objects and hardly any cycles. With the defaults, every tenth call would pay for a collection
    (docs/understand/performance.md).

    glibc keeps freed blocks of up to 32 MiB for reuse, and gRPC reads into large blocks. A flood of HTTP/2 frames
    then held up to 740 MiB; with this limit it holds 400 MiB at most.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # Other C libraries have no mallopt, and return large blocks anyway.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


def catch_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets. Call it before the process says that it is ready.

    A second SIGTERM changes nothing, because supervisors repeat it and draining takes a bounded time. A second
    SIGINT interrupts the draining.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def stop() -> None:
        signalled.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return signalled
