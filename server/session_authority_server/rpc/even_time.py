"""When to answer that a token is not good, so that the time it took tells nothing of why it isn't."""

import asyncio
import math
from collections.abc import Callable

PERIOD_SECONDS = 0.005


def even_time() -> Callable[[], "asyncio.Future[None]"]:
    """Begin to measure, and return what waits for the end of the present period.

    A token whose id nobody has costs the store less than one whose secret is wrong: there is no row to read. So
    both are answered when a whole number of periods has passed, one as a rule, and a caller learns from the time no
    more than it does from the answer. A random delay would not do, for it averages out over many calls.

    Measured by the clock of the loop alone, which stands still within one turn of it: a finer clock would shift the
    end by what the work took.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    def reached() -> "asyncio.Future[None]":
        ended = loop.create_future()
        periods = math.floor((loop.time() - began) / PERIOD_SECONDS) + 1
        loop.call_at(began + periods * PERIOD_SECONDS, _end, ended)
        return ended

    return reached


def _end(ended: "asyncio.Future[None]") -> None:
    if not ended.done():  # its caller may have gone away
        ended.set_result(None)
