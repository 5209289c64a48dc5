"""Files outside the database that hold the numbers of acknowledged endings.

Each process writes one file. It holds the latest NUMBERS_LIMIT numbers in one disk sector, so a crash leaves no partial
write. A process locks its file until it ends.
(docs/decisions/0020-endings-are-marked-outside-the-database.md)
"""

import contextlib
import fcntl
import logging
import os
import struct
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from uuid import UUID, uuid4

# A process has at most 8 transactions in flight. So a database that lost any ending of the process also lost one of its
# latest 8 endings. One disk sector holds 64 numbers.
NUMBERS_LIMIT = 64
_BLOCK = struct.Struct(f"<{NUMBERS_LIMIT}q")
_SUFFIX = ".marks"
# Without O_NONBLOCK, opening a pipe would wait for a writer.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_log = logging.getLogger(__name__)


class StateUnusable(Exception):
    """The state directory can't be used. The message says why and how to mend it."""


class StateDirectory:
    """The files of a state directory, one of which belongs to this process.

    Attributes:
        path: The directory.
        process_id: The id of this process, which names its file.
    """

    def __init__(self, path: Path) -> None:
        """Take the path of a directory, which `open` creates if it is missing."""
        self.path = path
        self.process_id = uuid4()
        self._descriptor: int | None = None
        self._is_empty = True

    def open(self) -> None:
        """Create the file of this process, and lock it.

        Raises:
            StateUnusable: If the file can't be written, or another file can't be read.
        """
        self.read()
        try:
            self._create(())
        except OSError as error:
            raise StateUnusable(
                f"the state directory {self.path} can't be written: {error.strerror}; make it writable for this user, "
                "create the folder above it, or set SESSION_AUTHORITY_STATE_DIRECTORY to another directory"
            ) from None

    def write(self, numbers: Sequence[int]) -> None:
        """Write the latest numbers of this process, and wait for the disk.

        If the file was moved or removed, create it again. The new file is complete, because the caller keeps all
        numbers.

        Raises:
            OSError: If the file can't be written.
        """
        assert self._descriptor is not None, "the directory is open"
        if self._is_in_place(self._descriptor):
            _write_block(self._descriptor, numbers)
        else:
            # Close the old file only after this: the system would give its descriptor to the next file of the process.
            self._create(numbers)
            _log.error(
                "a file of the state directory %s was moved or removed, and is made again; keep all its files",
                self.path,
            )
        self._is_empty = False

    def read(self) -> Mapping[UUID, Set[int]]:
        """Return the numbers of each process that has a file.

        Raises:
            StateUnusable: If a file can't be read.
        """
        return {
            process_id: numbers
            for process_id in self._processes()
            if (numbers := self._read_file(process_id)) is not None
        }

    def ended(self) -> Sequence[UUID]:
        """Return the processes that have a file and have ended."""
        return [each for each in self._processes() if self._has_ended(each)]

    def has_numbers(self, process_id: UUID) -> bool:
        """Return whether the file of a process exists and holds a number.

        Raises:
            StateUnusable: If the file can't be read.
        """
        return bool(self._read_file(process_id))

    def remove(self, process_id: UUID) -> None:
        """Remove the file of a process.

        Raises:
            OSError: If it can't be removed.
        """
        self._file(process_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the file of this process. Remove it if it holds no number."""
        if self._descriptor is not None:
            if self._is_empty:
                with contextlib.suppress(OSError):
                    self.remove(self.process_id)
            os.close(self._descriptor)
            self._descriptor = None

    def _file(self, process_id: UUID) -> Path:
        return self.path / f"{process_id}{_SUFFIX}"

    def _processes(self) -> Sequence[UUID]:
        """Return the processes that have a file.

        Raises:
            StateUnusable: If the directory can't be read.
        """
        try:
            names = sorted(each.name for each in self.path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateUnusable(
                f"the state directory {self.path} can't be read: {error.strerror}; make it readable for this user, "
                "or set SESSION_AUTHORITY_STATE_DIRECTORY to another directory"
            ) from None
        found = []
        for name in names:
            if name.endswith(_SUFFIX):
                with contextlib.suppress(ValueError):  # not a file of this program
                    found.append(UUID(name.removesuffix(_SUFFIX)))
        return found

    def _read_file(self, process_id: UUID) -> Set[int] | None:
        """Return the numbers in a file; None if another process has just removed it."""
        path = self._file(process_id)
        try:
            descriptor = os.open(path, _READING)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error.strerror) from None
        try:
            block = os.read(descriptor, _BLOCK.size + 1)
        except OSError as error:
            raise _unreadable(path, error.strerror) from None
        finally:
            os.close(descriptor)
        numbers = _BLOCK.unpack(block) if len(block) == _BLOCK.size else (-1,)
        if min(numbers) < 0:
            raise _unreadable(path, "it is damaged")
        return {number for number in numbers if number}

    def _has_ended(self, process_id: UUID) -> bool:
        if process_id == self.process_id:
            return False
        try:
            descriptor = os.open(self._file(process_id), _READING)
        except OSError:
            return False  # Another process has just removed it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _is_in_place(self, descriptor: int) -> bool:
        """Return whether the name of this process's file still leads to its open file."""
        try:
            named = self._file(self.process_id).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def _create(self, numbers: Sequence[int]) -> None:
        """Create the directory, and the file of this process with its numbers. Lock the file.

        Then close the earlier file, if there is one. If this fails, the earlier file stays open.

        Raises:
            OSError: If the file can't be created.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        # Create the file under another name, because other processes remove files that are not locked.
        unlocked = self.path / f"{self.process_id}.new"
        unlocked.unlink(missing_ok=True)
        with contextlib.ExitStack() as undo:
            descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            undo.callback(os.close, descriptor)
            undo.callback(unlocked.unlink, missing_ok=True)
            # The server must be able to read the files of commands that root runs, whatever root's umask is.
            os.fchmod(descriptor, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_block(descriptor, numbers)
            unlocked.rename(self._file(self.process_id))
            self._sync_names()
            undo.pop_all()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def _sync_names(self) -> None:
        """Wait until the names of the directory's files are on the disk."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_block(descriptor: int, numbers: Sequence[int]) -> None:
    latest = numbers[-NUMBERS_LIMIT:]
    block = _BLOCK.pack(*latest, *(0 for _ in range(NUMBERS_LIMIT - len(latest))))
    os.pwrite(descriptor, block, 0)
    os.fdatasync(descriptor)


def _unreadable(path: Path, reason: str | None) -> StateUnusable:
    return StateUnusable(
        f"{path} can't be read: {reason}; without it, lost endings may stay unnoticed. If the database is complete, "
        "remove the file"
    )
