"""How a process of the server or of the worker begins and ends."""

import asyncio
import gc
import signal


class CannotStart(Exception):
    """The server or worker can't start. The message says why, and what to do."""


class StoppedServing(Exception):
    """gRPC takes no more calls on, though no operator stopped it."""

    def __init__(self) -> None:
        super().__init__("gRPC stopped taking calls on, as the log says; start the server anew")


def tune_gc() -> None:
    """Have the garbage collector run rarely, and skip what was made at the start.

    A call makes many objects and hardly any cycles. With the defaults, every tenth call would pay for a collection
    (docs/understand/performance.md).
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def until_signalled() -> None:
    """Wait for SIGTERM or SIGINT.

    A second SIGTERM changes nothing, because supervisors repeat it and draining takes a bounded time. A second
    SIGINT interrupts the draining.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    try:
        await signalled.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
