"""A lean HTTP/2 client that drives one gRPC method with ready-made messages and checks each answer.

A gRPC client in Python costs more than the server it would measure. This one sends frames made beforehand
and only looks for the frame types that matter, so that one core drives a server on the other to its limit.
"""

import asyncio
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
CALLS_OF_A_CONNECTION = 8  # as many as a server takes, streams among them
_FRAME_BYTES = 16_384  # what every server takes
END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1


@dataclass
class Result:
    """What one run saw."""

    seconds: float
    latencies: list[float] = field(repr=False)
    wrong: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latency, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _literal(name: bytes | int, value: bytes) -> bytes:
    start = bytes((name,)) if isinstance(name, int) and name < 15 else b""
    if isinstance(name, int) and name >= 15:
        start = bytes((0x0F, name - 15))
    if isinstance(name, bytes):
        start = b"\0" + bytes((len(name),)) + name
    return start + bytes((len(value),)) + value


def header_block(path: str, authority: str, *, timeout: bool = True) -> bytes:
    """Return the headers of a call, which may have a deadline."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + _literal(4, path.encode())
        + _literal(1, authority.encode())
        + _literal(31, b"application/grpc")
        + _literal(b"te", b"trailers")
        + (_literal(b"grpc-timeout", b"20S") if timeout else b"")
    )


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        path: str,
        authority: str,
        messages: Sequence[bytes],
        expected: Sequence[bytes],
        streams: int,
        until: float,
    ) -> None:
        self._headers = header_block(path, authority)
        self._messages = messages
        self._expected = expected
        self._streams = streams
        self._until = until
        self._next_stream = 1
        self._next_message = 0
        self._open: dict[int, tuple[float, int]] = {}
        self._answers: dict[int, bytes] = {}
        self._buffer = b""
        self.latencies: list[float] = []
        self.wrong = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        big_window = (0x4).to_bytes(2) + (2**30).to_bytes(4)
        self._transport.write(
            PREFACE
            + frame(_SETTINGS, 0, 0, big_window)
            + frame(_WINDOW, 0, 0, (2**31 - 2**16).to_bytes(4))
        )
        for _ in range(self._streams):
            self._transport.write(self._request())

    def _request(self) -> bytes:
        index = self._next_message % len(self._messages)
        self._next_message += 1
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        message = self._messages[index]
        self._open[stream] = (time.perf_counter(), index)
        body = b"\0" + len(message).to_bytes(4) + message
        return frame(_HEADERS, _END_HEADERS, stream, self._headers) + b"".join(
            frame(
                _DATA,
                END_STREAM if at + _FRAME_BYTES >= len(body) else 0,
                stream,
                body[at : at + _FRAME_BYTES],
            )
            for at in range(0, len(body), _FRAME_BYTES)
        )

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end, out = 0, len(buffer), []
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3])
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9])
            if kind == _DATA:
                self._answers[stream] = buffer[at + 9 : at + 9 + size]
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                out.append(frame(_PING, _ACK, 0, buffer[at + 9 : at + 17]))
            if kind == _GOAWAY:
                self.wrong += len(self._open)
                self._open.clear()
            if stream in self._open and (
                kind == _RST or (kind in {_DATA, _HEADERS} and flags & END_STREAM)
            ):
                self._finish(stream, out)
            at += 9 + size
        self._buffer = buffer[at:]
        if out:
            self._transport.write(b"".join(out))
        if not self._open and not self.done.done():
            self.done.set_result(None)

    def _finish(self, stream: int, out: list[bytes]) -> None:
        started, index = self._open.pop(stream)
        now = time.perf_counter()
        self.latencies.append(now - started)
        if self._expected[index] not in self._answers.pop(stream, b""):
            self.wrong += 1
        if now < self._until:
            out.append(self._request())

    def connection_lost(self, exc: Exception | None) -> None:
        self.wrong += len(self._open)
        if not self.done.done():
            self.done.set_result(None)


def _same(protocol: _Connection) -> _Connection:
    return protocol


async def drive(
    address: str,
    path: str,
    messages: Sequence[bytes],
    expected: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    connections: int | None = None,
) -> Result:
    """Call a method for a while, and return what was seen.

    Args:
        address: Where the server listens.
        path: The method, as `/package.Service/Method`.
        messages: What to send, in turn, each within the window of 64 KiB that HTTP/2 begins with; a connection begins at a place of its own.
        expected: Bytes that each answer must contain.
        concurrency: How many calls are open at any time.
        seconds: For how long.
        connections: Over how many connections; unless given, over 4, or as many as it takes, for a server
            takes 8 calls at once on each.
    """
    loop = asyncio.get_running_loop()
    host, port = address.rsplit(":", 1)
    connections = min(connections or max(4, -(-concurrency // CALLS_OF_A_CONNECTION)), concurrency)
    started = time.perf_counter()
    opened = []
    for number in range(connections):
        shift = number * len(messages) // connections
        protocol = _Connection(
            path,
            address,
            [*messages[shift:], *messages[:shift]],
            [*expected[shift:], *expected[:shift]],
            concurrency // connections,
            started + seconds,
        )
        transport, _ = await loop.create_connection(
            functools.partial(_same, protocol), host, int(port)
        )
        opened.append((protocol, transport))
    await asyncio.gather(*(protocol.done for protocol, _ in opened))
    took = time.perf_counter() - started
    for _, transport in opened:
        transport.close()
    latencies = [each for protocol, _ in opened for each in protocol.latencies]
    return Result(took, latencies, sum(protocol.wrong for protocol, _ in opened))
