"""A receiver of webhooks on this machine, which can be hostile."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True)
class Received:
    """A request, as it came."""

    target: str
    headers: Mapping[str, str]
    body: bytes


Behaviour = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


async def accept(_received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(ACCEPTED)


def answer(head: str) -> Behaviour:
    """Return a behaviour that answers with a status and headers, and without content."""

    async def behave(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n".encode())

    return behave


async def hang(_received: Received, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(_received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer with a head at once, and then with one byte of content every now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


def flood(head: bytes, piece: bytes) -> Behaviour:
    """Return a behaviour that sends 10 GB after a head."""

    async def behave(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(10_000_000_000 // len(piece)):
            writer.write(piece)
            await writer.drain()

    return behave


async def garbage(_received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(range(256)) * 16)
    writer.close()


async def disconnect(_received: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


@dataclass
class Receiver:
    """A receiver that records its requests.

    Attributes:
        port: The port on 127.0.0.1.
        behave: Answers each request. Tests replace it.
        received: The requests so far.
        connections: How many connections were made.
    """

    port: int = 0
    behave: Behaviour = accept
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Receiver"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            open_tasks = list(self._open)
            for task in open_tasks:
                task.cancel()
            await asyncio.gather(*open_tasks)

    _open: set["asyncio.Task[None]"] = field(default_factory=set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        # The client or the end of the test may end a connection at any time.
        ended = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ended):
            while not writer.is_closing():
                request = await _read(reader)
                self.received.append(request)
                await self.behave(request, writer)
                await writer.drain()
        writer.transport.abort()
        with contextlib.suppress(*ended):
            await writer.wait_closed()
        self._open.discard(task)


async def _read(reader: asyncio.StreamReader) -> Received:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    parts = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in parts}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(first.split(" ")[1], headers, body)
