"""A fast HTTP/1.1 client for closed-loop load: one request in flight per connection, every answer checked."""

import asyncio
import time
import urllib.request
from collections.abc import Sequence
from typing import cast

from benchmarks.support.load import Result

_LENGTH = b"content-length: "


class _Closed(asyncio.Protocol):
    def __init__(
        self, requests: Sequence[bytes], expected: Sequence[bytes], first: int, until: float
    ) -> None:
        self._requests = requests
        self._expected = expected
        self._index = first
        self._until = until
        self._buffer = b""
        self.latencies: list[float] = []
        self.wrong = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._index])

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head, found, body = buffer.partition(b"\r\n\r\n")
        at = head.lower().find(_LENGTH)
        if not found or len(body) < int(head[at + len(_LENGTH) :].split(b"\r", 1)[0]):
            self._buffer = buffer
            return
        self._buffer = b""
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        if self._expected[self._index] not in body or not head.startswith(b"HTTP/1.1 200"):
            self.wrong += 1
        self._index = (self._index + 1) % len(self._requests)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self.wrong += 1
        if not self.done.done():
            self.done.set_result(None)


async def drive(
    port: int,
    cookies: Sequence[str],
    expected: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
) -> Result:
    """Request `/check` with each cookie in turn, for a number of seconds. Return the result."""
    requests = [
        f"GET /check HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode()
        for cookie in cookies
    ]
    began = time.perf_counter()
    opened: list[_Closed] = []
    for number in range(concurrency):
        first = number * len(requests) // concurrency
        each = _Closed(requests, expected, first, began + seconds)
        await asyncio.get_running_loop().create_connection(
            lambda each=each: each,  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        opened.append(each)
    await asyncio.gather(*(each.done for each in opened))
    latencies = [latency for each in opened for latency in each.latencies]
    return Result(time.perf_counter() - began, latencies, sum(each.wrong for each in opened))


def log_in(port: int, user: str) -> str:
    """Sign a user in. Return the cookies."""
    request = f"http://127.0.0.1:{port}/login?user={user}"
    with urllib.request.urlopen(request) as answer:
        cookies = answer.headers.get_all("set-cookie")
    return "; ".join(each.partition(";")[0] for each in cookies)
