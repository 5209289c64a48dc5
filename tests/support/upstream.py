"""A site behind a proxy. It knows nothing about sessions, and answers with the head of each request as it came."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Serve HTTP/1.1 until the end of the block, and yield the address. WebSockets and bodies are echoed."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=1 << 20)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            headers = _headers(head)
            if headers.get(b"upgrade", b"").lower() == b"websocket":
                await _echo(reader, writer, headers)
                break
            await reader.readexactly(int(headers.get(b"content-length", b"0")))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(head))
            if not head.startswith(b"HEAD "):
                writer.write(head)
            await writer.drain()
    writer.close()


def _headers(head: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in lines}


async def _echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[bytes, bytes]
) -> None:
    """Accept a WebSocket. Then send back each byte that arrives."""
    key = headers.get(b"sec-websocket-key", b"") + _WEBSOCKET
    accept = base64.b64encode(hashlib.sha1(key, usedforsecurity=False).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: " + accept + b"\r\n\r\n"
    )
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
