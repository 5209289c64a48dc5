"""Honest load: callers that wait for each answer before the next call. A server must refuse no call of theirs."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, islice
from typing import TypeAlias

from session_authority import AsyncSessionClient, Session, SessionAuthorityError, SessionClient

# Long enough for a busy machine. The tests check whether calls are refused, and not how long callers wait.
_DEADLINE_SECONDS = 30

# A token, and the id of its session.
Known: TypeAlias = tuple[str, str]
Shape: TypeAlias = "Callable[[str, Sequence[Known], float], Coroutine[None, None, Tally]]"


@dataclass
class Tally:
    """The outcome of the calls.

    Attributes:
        right: The latencies of correct answers, in seconds.
        wrong: Number of answers with another session.
        failures: The errors, as text.
        seconds: Duration of the whole load.
    """

    right: list[float] = field(default_factory=list, repr=False)
    wrong: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def took(self, seconds: float, answer: object, session_id: str) -> None:
        """Count an answer."""
        if isinstance(answer, Session) and answer.session_id == session_id:
            self.right.append(seconds)
        else:
            self.wrong += 1

    def failed(self, error: SessionAuthorityError) -> None:
        """Count an error."""
        self.failures.append(f"{type(error).__name__}: {error}")


async def tasks(
    clients: int, callers: int, address: str, sessions: Sequence[Known], seconds: float
) -> Tally:
    """Validate through asyncio clients with several concurrent callers each. Each caller validates at least once."""
    tally, began = Tally(), time.perf_counter()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                AsyncSessionClient(address, deadline_seconds=_DEADLINE_SECONDS)
            )
            for _ in range(clients)
        ]

        async def ask(client: AsyncSessionClient, first: int) -> None:
            for token, session_id in islice(cycle(sessions), first, None):
                sent = time.perf_counter()
                try:
                    answer = await client.validate(token)
                except SessionAuthorityError as error:
                    tally.failed(error)
                else:
                    tally.took(time.perf_counter() - sent, answer, session_id)
                if time.perf_counter() > began + seconds:
                    return

        numbers = count()
        await asyncio.gather(
            *(
                ask(client, next(numbers) * 37 % len(sessions))
                for client in opened
                for _ in range(callers)
            )
        )
    tally.seconds = time.perf_counter() - began
    return tally


async def threads(callers: int, address: str, sessions: Sequence[Known], seconds: float) -> Tally:
    """Validate through one synchronous client, from several threads. Each thread validates at least once."""
    tally, began = Tally(), time.perf_counter()
    with SessionClient(address, deadline_seconds=_DEADLINE_SECONDS) as client:

        def ask(first: int) -> None:
            for token, session_id in islice(cycle(sessions), first, None):
                sent = time.perf_counter()
                try:
                    answer = client.validate(token)
                except SessionAuthorityError as error:
                    tally.failed(error)
                else:
                    tally.took(time.perf_counter() - sent, answer, session_id)
                if time.perf_counter() > began + seconds:
                    return

        asking = [
            threading.Thread(target=ask, args=(number * 37 % len(sessions),))
            for number in range(callers)
        ]
        for each in asking:
            each.start()
        for each in asking:
            await asyncio.to_thread(each.join)
    tally.seconds = time.perf_counter() - began
    return tally


SHAPES: dict[str, Shape] = {
    "1 client, 16 callers": partial(tasks, 1, 16),
    "1 client, 256 callers": partial(tasks, 1, 256),
    "1 client, 1,024 callers": partial(tasks, 1, 1_024),
    "12 clients, 100 callers each": partial(tasks, 12, 100),
    "1 client, 64 threads": partial(threads, 64),
}
