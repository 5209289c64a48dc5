"""Requests over HTTP that are not well formed, or arrive slowly."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from session_authority.web.asgi import Receive, Scope, Send
from session_authority_gateway import http_server
from session_authority_gateway.http_server import HEAD_LIMIT_BYTES, listening_socket, serving_http

POST = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECONDS = 60


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path, the headers and the body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [[each.decode("latin-1") for each in pair] for pair in scope["headers"]]
    content = json.dumps([scope["path"], headers, body.decode()]).encode()
    length = (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": content})


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    with listening_socket("127.0.0.1:0") as listening:
        async with serving_http(echo, listening, None, 1):
            yield listening.getsockname()


async def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send bytes, and return everything until the server closes the connection."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        received = bytearray()
        try:
            await writer.drain()
            while part := await reader.read(65_536):
                received += part
        except ConnectionError:
            pass
        writer.close()
    return bytes(received)


async def test_a_trailer_does_not_become_a_header(address: tuple[str, int]) -> None:
    for name in ("X-Forwarded-For", "Cookie", "Authorization", "Origin"):
        sent = CHUNKED + f"1\r\nb\r\n0\r\n{name}: forged\r\n\r\n".encode()
        received = await exchange(address, sent + POST + b"Connection: close\r\n\r\n")
        assert received.count(b"HTTP/1.1 200") == 2, name
        assert b"192.0.2.1" in received, name
        assert b"forged" not in received, name


MALFORMED = {
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 1\r\n\r\na",
    "a folded line": POST + b"X-A: b\r\n c\r\n\r\n",
    "a NUL": POST + b"X-A: b\0c\r\n\r\n",
    "a name that is no token": POST + b"X(A): b\r\n\r\n",
    "no name": POST + b": b\r\n\r\n",
    "bare line feeds": b"GET /x HTTP/1.1\nHost: a\n\n",
    "bare carriage returns": b"GET /x HTTP/1.1\rHost: a\r\r",
    "a length with a sign": POST + b"Content-Length: +1\r\n\r\na",
    "a length over 64 bits": CHUNKED + b"ffffffffffffffff1\r\nx\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


async def test_a_malformed_request_is_refused_and_smuggles_no_other(
    address: tuple[str, int],
) -> None:
    for name, sent in MALFORMED.items():
        received = await exchange(address, sent + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 400"), name
        assert b"smuggled" not in received, name


ENDLESS = {
    "a path": b"GET /",
    "a header": POST + b"X-A: ",
    "a trailer": CHUNKED + b"0\r\nX-A: ",
    "trailers": CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 16_384,
    "a chunk's extension": CHUNKED + b"1;a=",
}


async def test_a_request_without_an_end_closes_the_connection(address: tuple[str, int]) -> None:
    for name, sent in ENDLESS.items():
        received = await exchange(address, sent + b"x" * (4 * HEAD_LIMIT_BYTES))
        assert b"200 OK" not in received, name


async def test_a_large_body_passes(address: tuple[str, int]) -> None:
    body = b"b" * (8 * HEAD_LIMIT_BYTES)
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert body in await exchange(address, head + body)


async def test_a_connection_beyond_the_limit_is_closed_and_the_others_work(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS_LIMIT", 2)
    request = POST + b"Content-Length: 0\r\n\r\n"
    async with asyncio.timeout(SECONDS):
        kept = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in kept:
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert await exchange(address, request) == b""
        kept.pop()[1].close()
        last = POST + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        while not (await exchange(address, last)).startswith(b"HTTP/1.1 200"):
            pass  # until the server has seen the other connection close
        for _, writer in kept:
            writer.close()


SLOW = {
    "nothing": b"",
    "half a head": b"GET /x HTTP/1.1\r\nHo",
    "half a body": POST + b"Content-Length: 9\r\n\r\nhalf",
    "half a chunk": CHUNKED + b"9\r\nhalf",
    "half a trailer": CHUNKED + b"0\r\nX-A",
}


async def test_a_request_that_arrives_too_slowly_closes_the_connection(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "RECEIVE_SECONDS", 0.05)
    for name, sent in SLOW.items():
        assert await exchange(address, sent) == b"", name
