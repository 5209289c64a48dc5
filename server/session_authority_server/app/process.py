"""Tune, and stop, a process of the server or the worker."""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable

_STANDARD_INPUT = 0
_M_MMAP_THRESHOLD = -3  # mallopt(3), in glibc's malloc.h
_LARGE_BLOCK_BYTES = 32 * 1024
# The limits of open files to try, in this order. Each connection needs one file. A client opens up to six connections.
_OPEN_FILES = 65_536, 10_240, 4_096
# The wait before a reload. Calls wait while a process reads its settings and certificates.
RELOAD_SECONDS = 0.1


class CannotStart(Exception):
    """The server or worker can't start. The message names the reason and the remedy."""


class StoppedServing(Exception):
    """gRPC stopped accepting calls, although no operator stopped the server."""

    def __init__(self) -> None:
        super().__init__(
            "gRPC stopped accepting calls; see the log for the reason, and restart the server"
        )


def tune_memory() -> None:
    """Run the garbage collector rarely, and return large freed blocks to the system at once.

    A call creates many objects and few cycles. With the defaults, every tenth call would run a collection
    (docs/understand/performance.md).

    By default, glibc keeps freed blocks of up to 32 MiB for reuse, and gRPC reads into large blocks. During a flood of
    HTTP/2 frames, the server used up to 740 MiB. With a limit of _LARGE_BLOCK_BYTES, it uses about 400 MiB.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # Only glibc needs this setting. Other C libraries have no `mallopt`, so ignore the error. They return large freed
    # blocks to the operating system by themselves.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


def allow_many_connections() -> None:
    """Raise this process's limit of open files as far as the system permits. Child processes inherit the limit.

    Shells and systemd limit programs to 1,024 open files, because select() handles no more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in _OPEN_FILES:
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft >= wanted or soft == resource.RLIM_INFINITY:
            return
        # Some systems refuse their own hard limit, and macOS reports an infinite one.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def notify(state: str) -> None:
    """Send a state, such as `READY=1`, to the service manager that started this process.

    This is the protocol of sd_notify(3). Without NOTIFY_SOCKET, no service manager waits for the state.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    # A service manager that is restarting must not stop the server.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)


def catch_signals(reload: Callable[[], None] | None = None) -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets. Call this function before the process reports that it is ready.

    SIGHUP calls `reload` after RELOAD_SECONDS, once for all signals until then. If the terminal was closed, SIGHUP sets
    the event instead.

    A second SIGTERM has no effect, because supervisors repeat it and draining takes a limited time. A second SIGINT
    interrupts the draining.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def stop() -> None:
        signalled.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if reload is not None:
        has_terminal = os.isatty(_STANDARD_INPUT)
        waiting = False

        def reload_once() -> None:
            nonlocal waiting
            waiting = False
            reload()

        def hang_up() -> None:
            nonlocal waiting
            if has_terminal and not os.isatty(_STANDARD_INPUT):
                stop()
            elif not waiting:
                waiting = True
                loop.call_later(RELOAD_SECONDS, reload_once)

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return signalled
