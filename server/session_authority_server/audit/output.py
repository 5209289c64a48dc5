"""Outputs of the audit log. Several processes can write whole lines to the same output."""

import contextlib
import os
import stat
from collections import deque
from pathlib import Path

# The most bytes in one write. On a pipe, larger writes of several processes could interleave (PIPE_BUF).
_FILE_WRITE_BYTES = 64 * 1024
_PIPE_WRITE_BYTES = 4096


class Descriptor:
    """A file descriptor that `close` leaves open, such as standard output."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, lines: deque[bytes]) -> None:
        """Write lines, and remove each from the front once it is written.

        Raises:
            OSError: If some could not be written.
        """
        while lines:
            _write_some(self._descriptor, lines, _PIPE_WRITE_BYTES)

    def close(self) -> None:
        """Do nothing: other parts of the program still use the descriptor."""


class File:
    """A file that several processes can append to. It is reopened after it was renamed or removed.

    The standard library's WatchedFileHandler is not used. It closes the old file before it opens the new one, and hides
    that a full disk cut a line short.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. A new file is readable by its owner alone. If root makes it, it belongs to its folder's owner.

        Raises:
            OSError: If the file can't be written or is not a regular file.
        """
        self._path = path
        self._line_is_partial = False
        self._descriptor = self._open()

    def write(self, lines: deque[bytes]) -> None:
        """Write lines, and remove each from the front once it is written.

        Raises:
            OSError: If some could not be written.
        """
        self._follow()
        while lines:
            if self._line_is_partial:  # Keep the partial line, and write the whole line after it.
                os.write(self._descriptor, b"\n")
                self._line_is_partial = False
            self._line_is_partial = _write_some(self._descriptor, lines, _FILE_WRITE_BYTES)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _follow(self) -> None:
        """Reopen the file if its path now leads to another file or to none."""
        ours = os.fstat(self._descriptor)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            opened = self._open()
            os.close(self._descriptor)
            self._descriptor, self._line_is_partial = opened, False

    def _open(self) -> int:
        # O_NONBLOCK: opening a pipe must not wait for its reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags | os.O_EXCL, 0o600)
        except FileExistsError:
            descriptor = os.open(self._path, flags, 0o600)
        else:
            self._give_to_owner_of_folder(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "it is not a regular file")
        return descriptor

    def _give_to_owner_of_folder(self, descriptor: int) -> None:
        """Let the server write to a new file that a command of root made."""
        if os.geteuid() == 0:
            folder = self._path.parent.stat()
            with contextlib.suppress(PermissionError):  # a container's root may lack the capability
                os.fchown(descriptor, folder.st_uid, folder.st_gid)


def _write_some(descriptor: int, lines: deque[bytes], limit_bytes: int) -> bool:
    """Write at least one line in one call. Remove written lines, and return whether a line was cut short."""
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
