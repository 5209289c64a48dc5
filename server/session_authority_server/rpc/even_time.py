"""When to answer that a token is not good, so that the time it took tells nothing of why it isn't."""

import asyncio
import contextlib
import heapq
import math
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

PERIOD_SECONDS = 0.005
# How long the thread that wakes them stays when nobody waits.
_IDLE_SECONDS = 1.0

_End: TypeAlias = "asyncio.Future[None]"


def even_time() -> Callable[[], _End]:
    """Begin to measure, and return what waits for the end of the present period.

    A token whose id nobody has costs the store less than one whose secret is wrong: there is no row to read. So
    both are answered when a whole number of periods has passed, one as a rule, and a caller learns from the time no
    more than it does from the answer. A random delay would not do, for it averages out over many calls.
    """
    began = time.monotonic()

    def reached() -> _End:
        periods = math.floor((time.monotonic() - began) / PERIOD_SECONDS) + 1
        return _alarm.at(began + periods * PERIOD_SECONDS)

    return reached


class _Alarm:
    """Wakes who waits for a moment, from a thread of its own.

    The timers of a loop would tell what they are to hide: they count whole milliseconds from the latest turn of the
    loop, which began when the store had answered.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, asyncio.AbstractEventLoop, _End]] = []
        self._count = 0
        self._runs = False

    def at(self, moment: float) -> _End:
        """Return what is done at a moment of the monotonic clock."""
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        with self._changed:
            self._count += 1  # no two compare further than to here
            heapq.heappush(self._waiting, (moment, self._count, loop, end))
            if not self._runs:
                threading.Thread(target=self._run, name="even-time", daemon=True).start()
                self._runs = True
            elif self._waiting[0][-1] is end:
                self._changed.notify()
        return end

    def _run(self) -> None:
        with self._changed:
            try:
                # Asked once more: somebody may have come while the lock was waited for, after the wait was over.
                while self._waiting or self._changed.wait(_IDLE_SECONDS) or self._waiting:
                    self._wake()
                    if self._waiting:
                        self._changed.wait(self._waiting[0][0] - time.monotonic())
            finally:
                self._runs = False

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            *_, loop, end = heapq.heappop(self._waiting)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_reach, end)


def _reach(end: _End) -> None:
    if not end.done():  # its caller may have gone away
        end.set_result(None)


_alarm = _Alarm()
