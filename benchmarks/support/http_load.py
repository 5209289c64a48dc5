"""Generates closed-loop load over HTTP/1.1: each connection has one request in flight."""

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from benchmarks.support.load import Result


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as an answer has arrived, until a given time.

    Attributes:
        latencies: The seconds that each answer took.
        wrong: The number of answers without the expected bytes.
        done: Completed at the end.
    """

    def __init__(
        self, requests: Sequence[bytes], expected: Sequence[bytes], first: int, until: float
    ) -> None:
        self._requests = requests
        self._expected = expected
        self._next = first % len(requests)
        self._until = until
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self.latencies: list[float] = []
        self.wrong = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's has another base
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):  # the expected answers have no body
            return
        now = time.perf_counter()
        self.latencies.append(now - self._sent_at)
        answer, self._received = self._received, b""
        if not answer.startswith(b"HTTP/1.1 200 ") or self._expected[self._next] not in answer:
            self.wrong += 1
        self._next = (self._next + 1) % len(self._requests)
        if now < self._until:
            self._send()
        else:
            self._end()

    def connection_lost(self, _error: Exception | None) -> None:
        self._end()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests[self._next])

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
            assert self._transport is not None
            self._transport.close()


async def drive(
    address: str,
    requests: Sequence[bytes],
    expected: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
) -> Result:
    """Send requests on as many connections as are given, and check that each answer has the expected bytes.

    Args:
        address: The address of the server.
        requests: The requests, each in whole. They are sent in turn.
        expected: Bytes of the answer to each request.
        concurrency: The number of connections.
        seconds: How long to send.
    """
    host, _, port = address.rpartition(":")
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    connections = []
    for number in range(concurrency):
        first = number * len(requests) // concurrency

        def new(first: int = first) -> _Connection:
            return _Connection(requests, expected, first, start + seconds)

        _, connection = await loop.create_connection(new, host, int(port))
        connections.append(connection)
    await asyncio.gather(*(each.done for each in connections))
    latencies = [latency for each in connections for latency in each.latencies]
    return Result(time.perf_counter() - start, latencies, sum(each.wrong for each in connections))
