"""A fast HTTP/2 client that calls one gRPC method with prepared messages and checks every answer.

A gRPC client in Python needs more CPU than the server that it measures. This client prepares its frames beforehand and
parses only the frame types that it needs.
"""

import asyncio
import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_MAX_CONCURRENT_STREAMS = 3
_FRAME_BYTES = 16_384  # The largest frame that every server accepts.
_RESERVE_BYTES = 1_000

_head = struct.Struct(">HBBBI").unpack_from


class Outcome(IntEnum):
    """The outcome of a call."""

    RIGHT = 0
    REFUSED = 1  # The answer has no message.
    WRONG = 2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame."""
    return _start(kind, flags, payload) + stream.to_bytes(4) + payload


def _start(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags))


def opening() -> bytes:
    """Return the first bytes of a client that accepts any amount of data."""
    big_window = (0x4).to_bytes(2) + (2**30).to_bytes(4)
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, big_window)
        + frame(WINDOW, 0, 0, (2**31 - 2**16).to_bytes(4))
    )


def _literal(name: bytes | int, value: bytes) -> bytes:
    start = bytes((name,)) if isinstance(name, int) and name < 15 else b""
    if isinstance(name, int) and name >= 15:
        start = bytes((0x0F, name - 15))
    if isinstance(name, bytes):
        start = b"\0" + bytes((len(name),)) + name
    return start + bytes((len(value),)) + value


def header_block(path: str, authority: str, *, timeout: bool = True) -> bytes:
    """Return the headers of a call. With `timeout`, they include a deadline."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + _literal(4, path.encode())
        + _literal(1, authority.encode())
        + _literal(31, b"application/grpc")
        + _literal(b"te", b"trailers")
        + (_literal(b"grpc-timeout", b"20S") if timeout else b"")
    )


def _pieces(headers: bytes, message: bytes) -> list[bytes]:
    """Return the frames of a call, split where the four bytes of the stream id belong."""
    body = b"\0" + len(message).to_bytes(4) + message
    parts = [body[at : at + _FRAME_BYTES] for at in range(0, len(body), _FRAME_BYTES)]
    pieces = [_start(HEADERS, END_HEADERS, headers)]
    before = headers
    for number, part in enumerate(parts, 1):
        pieces.append(before + _start(DATA, END_STREAM if number == len(parts) else 0, part))
        before = part
    return [*pieces, before]


class Connection(asyncio.Protocol):
    """A connection that calls one method. A subclass decides what follows an answer.

    Attributes:
        open: The unanswered calls, by stream id: the time of sending and the index of the message.
    """

    def __init__(
        self, path: str, authority: str, messages: Sequence[bytes], expected: Sequence[bytes]
    ) -> None:
        """Prepare the frames of the calls.

        Args:
            path: The method, as `/package.Service/Method`.
            authority: The server's name.
            messages: The requests.
            expected: Bytes that the answer to each message must contain.
        """
        headers = header_block(path, authority)
        self._pieces = [_pieces(headers, each) for each in messages]
        self._expected = expected
        self._stream = 1
        self._credit = 65_535
        self._streams_limit = 2**31
        self._answers: dict[int, bytes] = {}
        self._buffer = b""
        self._out: list[bytes] = []
        self.open: dict[int, tuple[float, int]] = {}

    def began(self) -> None:
        """Send the first calls."""

    def ended(self, sent: float, now: float, outcome: Outcome) -> None:
        """Handle the end of a call."""
        raise NotImplementedError

    def streamed(self, message: bytes) -> None:
        """Handle a message of a stream that the subclass opened."""

    def received(self) -> None:
        """Continue after answers arrived."""

    def lost(self) -> None:
        """Handle a connection that the server closed."""

    @property
    def has_room(self) -> bool:
        """Whether HTTP/2 allows another small message on the connection."""
        return len(self.open) < self._streams_limit and self._credit > _RESERVE_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(opening())
        self.began()
        self.flush()

    def send(self, index: int, now: float) -> None:
        """Queue a message for the next `flush`."""
        stream, self._stream = self._stream, self._stream + 2
        pieces = self._pieces[index]
        self.open[stream] = now, index
        self._credit -= len(pieces[-1])
        self._out.append(stream.to_bytes(4).join(pieces))

    def flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end, now = 0, len(buffer), time.perf_counter()
        while end - at >= 9:
            high, low, kind, flags, stream = _head(buffer, at)
            after = at + 9 + (high << 8 | low)
            if after > end:
                break
            if stream == 0:
                self._manage(kind, flags, buffer[at + 9 : after])
            elif kind == DATA:
                if stream in self.open:
                    self._answers[stream] = self._answers.get(stream, b"") + buffer[at + 9 : after]
                else:
                    self.streamed(buffer[at + 14 : after])
            if stream in self.open and (kind == RST or (kind < 2 and flags & END_STREAM)):
                sent, index = self.open.pop(stream)
                self.ended(sent, now, self._outcome(index, self._answers.pop(stream, b"")))
            at = after
        self._buffer = buffer[at:]
        self.received()
        self.flush()

    def _outcome(self, index: int, answer: bytes) -> Outcome:
        if not answer:
            return Outcome.REFUSED
        return Outcome.RIGHT if self._expected[index] in answer else Outcome.WRONG

    def _manage(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == WINDOW:
            self._credit += int.from_bytes(payload)
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2]) == _MAX_CONCURRENT_STREAMS:
                    self._streams_limit = int.from_bytes(payload[at + 2 : at + 6])
            self._out.append(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost()

    def close(self) -> None:
        self._transport.close()
