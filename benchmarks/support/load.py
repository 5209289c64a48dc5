"""Generates closed-loop load: a fixed number of calls in flight, each answer followed by the next call."""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.support.http2 import Connection, Outcome

CALLS_OF_A_CONNECTION = 8


@dataclass
class Result:
    """The result of one run."""

    seconds: float
    latencies: list[float] = field(repr=False)
    wrong: int = 0

    @property
    def rate(self) -> float:
        """The number of answers per second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        return percentile_ms(self.latencies, percent)


def percentile_ms(latencies: Sequence[float], percent: float) -> float:
    """Return a percentile of latencies, in milliseconds. Return NaN if there are none."""
    if not latencies:
        return float("nan")
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


class Closed(Connection):
    """Keeps a number of calls in flight until a given time. Counts every unexpected answer as wrong."""

    def __init__(
        self,
        path: str,
        authority: str,
        messages: Sequence[bytes],
        expected: Sequence[bytes],
        calls: int,
        until: float,
    ) -> None:
        super().__init__(path, authority, messages, expected)
        self._calls = calls
        self._until = until
        self._count = len(messages)
        self._next = 0
        self.latencies: list[float] = []
        self.wrong = 0
        self.done = asyncio.get_running_loop().create_future()

    def began(self) -> None:
        for _ in range(self._calls):
            self._ask(time.perf_counter())

    def _ask(self, now: float) -> None:
        self.send(self._next, now)
        self._next = (self._next + 1) % self._count

    def ended(self, sent: float, now: float, outcome: Outcome) -> None:
        self.latencies.append(now - sent)
        if outcome is not Outcome.RIGHT:
            self.wrong += 1
        if now < self._until:
            self._ask(now)

    def received(self) -> None:
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def lost(self) -> None:
        self.wrong += len(self.open)
        self.open.clear()
        if not self.done.done():
            self.done.set_result(None)


async def drive(
    address: str,
    path: str,
    messages: Sequence[bytes],
    expected: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    connections: int | None = None,
    kind: type[Closed] = Closed,
    tls: ssl.SSLContext | None = None,
) -> Result:
    """Call a method for a number of seconds. Return the result.

    Args:
        address: The address of the server.
        path: The method, as `/package.Service/Method`.
        messages: The requests, sent in turn. Each must fit into the initial HTTP/2 window of 64 KiB. Each connection
            starts at another message.
        expected: Bytes that each answer must contain.
        concurrency: The number of calls in flight.
        seconds: The length of the run.
        connections: The number of connections. The default is one for every 8 calls, and at least 4.
        kind: The class that makes the calls.
        tls: The TLS configuration; None for plaintext.
    """
    loop = asyncio.get_running_loop()
    host, port = address.rsplit(":", 1)
    connections = min(connections or max(4, -(-concurrency // CALLS_OF_A_CONNECTION)), concurrency)
    started = time.perf_counter()
    opened: list[Closed] = []
    for number in range(connections):
        shift = number * len(messages) // connections
        turned = [*messages[shift:], *messages[:shift]], [*expected[shift:], *expected[:shift]]
        each = kind(path, address, *turned, concurrency // connections, started + seconds)
        await loop.create_connection(lambda each=each: each, host, int(port), ssl=tls)
        opened.append(each)
    await asyncio.gather(*(each.done for each in opened))
    took = time.perf_counter() - started
    for each in opened:
        each.close()
    latencies = [latency for each in opened for latency in each.latencies]
    return Result(took, latencies, sum(each.wrong for each in opened))
