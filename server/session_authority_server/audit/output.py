"""Where lines go: whole ones, in order, so that several processes can write to the same place."""

import os
import stat
from collections import deque
from pathlib import Path

# What goes into one write. A pipe that several processes share keeps apart no more than this (PIPE_BUF).
_FILE_WRITE_BYTES = 64 * 1024
_PIPE_WRITE_BYTES = 4096


class Descriptor:
    """An open file descriptor, such as standard output, which is not ours to close."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, lines: deque[bytes]) -> None:
        """Write lines, and take those from the front that have been written.

        Raises:
            OSError: If not all could be.
        """
        while lines:
            _write_some(self._descriptor, lines, _PIPE_WRITE_BYTES)

    def close(self) -> None:
        """Leave it open."""


class File:
    """A file that is appended to, by several processes if need be, and opened anew when it was moved away."""

    def __init__(self, path: Path) -> None:
        """Open it, for its owner alone where it is new.

        Raises:
            OSError: If it can't be written, or is no regular file.
        """
        self._path = path
        self._torn = False
        self._descriptor = self._open()

    def write(self, lines: deque[bytes]) -> None:
        """Write lines, and take those from the front that have been written.

        Raises:
            OSError: If not all could be.
        """
        self._follow()
        while lines:
            if self._torn:  # half a line is there; the whole one follows on a line of its own
                os.write(self._descriptor, b"\n")
                self._torn = False
            self._torn = _write_some(self._descriptor, lines, _FILE_WRITE_BYTES)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def _follow(self) -> None:
        """Open the file anew where another one, or none, has its name."""
        ours = os.fstat(self._descriptor)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            opened = self._open()
            os.close(self._descriptor)
            self._descriptor, self._torn = opened, False

    def _open(self) -> int:
        # Not to wait for the reader of a pipe.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "it is not a regular file")
        return descriptor


def _write_some(descriptor: int, lines: deque[bytes], limit_bytes: int) -> bool:
    """Write lines from the front, at least one, in one call, and say whether the last one is there by half."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        if some and size + len(line) > limit_bytes:
            break
        some.append(line)
        size += len(line)
    left = os.write(descriptor, b"".join(some))
    for line in some:
        if left < len(line):
            return left > 0
        left -= len(line)
        lines.popleft()
    return False
