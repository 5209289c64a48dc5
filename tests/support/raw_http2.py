"""Handwritten HTTP/2 frames, which no well-behaved client sends."""

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, _SETTINGS, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 2, 3, 4, 8, 9
UNKNOWN = 0xFA  # a type that no specification defines; receivers ignore it (RFC 9113, 4.1)
_CANCEL = struct.pack(">I", 8)
END_STREAM, _END_HEADERS, _ACKNOWLEDGE = 1, 4, 1
_FRAME_LIMIT_BYTES = 16_384
_FIRST_WINDOW_BYTES = 65_535
_INITIAL_WINDOW_SIZE = 4  # a setting (RFC 9113, 6.5.2)
PATIENCE_SECONDS = 60

Header = tuple[bytes, bytes]


def headers(path: bytes, *more: Header, authority: bytes = b"localhost") -> list[Header]:
    """Return the headers of a gRPC call."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", authority),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


class RawConnection:
    """A connection on which tests send any frames.

    Attributes:
        window_bytes: How many bytes of a call the server accepts before it reads the call.
    """

    def __init__(self, address: str, timeout_seconds: float = 5) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_seconds)
        self._stream = -1
        self._received = b""
        self._windows = {0: _FIRST_WINDOW_BYTES}
        self.window_bytes = _FIRST_WINDOW_BYTES
        self._socket.sendall(
            _PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(_SETTINGS, _ACKNOWLEDGE, 0, b"")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, some: Iterable[Header], message: bytes | None = b"") -> int:
        """Send a complete call with one message, or an open call without a message. Return its stream."""
        self._socket.sendall(self.encoded(some, message))
        return self._stream

    def encoded(self, some: Iterable[Header], message: bytes | None = b"") -> bytes:
        """Return a call as bytes, for senders of many calls at once."""
        return self._next_call(_block(some), message)

    def encoded_and_reset(self, some: Iterable[Header], message: bytes | None, calls: int) -> bytes:
        """Return many calls as bytes, each followed by the frame that resets it."""
        block = _block(some)
        return b"".join(
            self._next_call(block, message) + frame(RST_STREAM, 0, self._stream, _CANCEL)
            for _ in range(calls)
        )

    def _next_call(self, block: bytes, message: bytes | None) -> bytes:
        self._stream += 2
        first, *rest = _pieces(block)
        sent = frame(HEADERS, 0 if rest else _END_HEADERS, self._stream, first)
        for at, piece in enumerate(rest, 1):
            last = _END_HEADERS if at == len(rest) else 0
            sent += frame(_CONTINUATION, last, self._stream, piece)
        if message is not None:
            body = struct.pack(">BI", 0, len(message)) + message
            sent += frame(DATA, END_STREAM, self._stream, body)
        return sent

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def begin_message(self, some: Iterable[Header], length: int) -> None:
        """Send a call and the length of its message. `continue_messages` sends the rest."""
        self._socket.sendall(self._next_call(_block(some), None))
        self._socket.sendall(frame(DATA, 0, self._stream, struct.pack(">BI", 0, length)))
        self._windows[0] -= 5
        self._windows[self._stream] = _FIRST_WINDOW_BYTES - 5

    def open_messages(self) -> int:
        """Return for how many begun messages the server still waits."""
        self._read_windows()
        return len(self._windows) - 1

    def continue_messages(self) -> int:
        """Send one frame of each begun message, if the server's window permits. Return the number of bytes sent."""
        self._read_windows()
        sent = 0
        for stream in [each for each in self._windows if each]:
            size = min(self._windows[0], self._windows[stream], _FRAME_LIMIT_BYTES)
            if size > 0:
                self._socket.sendall(frame(DATA, 0, stream, bytes(size)))
                self._windows[0] -= size
                self._windows[stream] -= size
                sent += size
        return sent

    def _read_windows(self) -> None:
        patience = self._socket.gettimeout()
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self._received += self._socket.recv(1 << 20)
        self._socket.settimeout(patience)
        while len(self._received) >= 9:
            end = 9 + int.from_bytes(self._received[:3])
            if len(self._received) < end:
                return
            kind, stream = self._received[3], int.from_bytes(self._received[5:9])
            content, self._received = self._received[9:end], self._received[end:]
            if kind == _WINDOW_UPDATE and stream in self._windows:
                self._windows[stream] += int.from_bytes(content)
            elif kind in (HEADERS, RST_STREAM) and stream in self._windows:
                del self._windows[stream]
            elif kind == _SETTINGS:
                settings = dict(struct.iter_unpack(">HI", content))
                self.window_bytes = settings.get(_INITIAL_WINDOW_SIZE, self.window_bytes)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield the kind, flags and content of each frame from the server."""
        received = b""
        while True:
            while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3]):
                more = self._socket.recv(65_536)
                if not more:
                    return
                received += more
            end = 9 + int.from_bytes(received[:3])
            yield received[3], received[4], received[9:end]
            received = received[end:]

    def wait_for(self, expected: bytes = b"") -> None:
        """Read until the server has sent the expected bytes."""
        self._socket.settimeout(PATIENCE_SECONDS)
        said = b""
        while not said or expected not in said:
            data = self._socket.recv(65_536)
            assert data, f"no {expected!r} in {said!r}"
            said += data

    def heard(self, quiet_seconds: float = 0.3) -> bytes:
        """Return the server's bytes until it sends none for a while or disconnects."""
        self._socket.settimeout(quiet_seconds)
        said = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := self._socket.recv(65_536):
                said += data
        return said


def _block(some: Iterable[Header]) -> bytes:
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in some)


def _pieces(block: bytes) -> Sequence[bytes]:
    return [
        block[at : at + _FRAME_LIMIT_BYTES] for at in range(0, len(block), _FRAME_LIMIT_BYTES)
    ] or [b""]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame as bytes."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _string(data: bytes) -> bytes:
    """Return a string of HPACK, uncompressed (RFC 7541, 5.1 and 5.2)."""
    length, encoded = len(data), b""
    if length < 127:
        return bytes([length]) + data
    length, encoded = length - 127, b"\x7f"
    while length >= 128:
        encoded += bytes([length % 128 + 128])
        length //= 128
    return encoded + bytes([length]) + data
