"""Files outside the database that hold the numbers of acknowledged endings.

Each process writes one file. It holds the latest NUMBERS_LIMIT numbers in one disk sector, so a crash leaves no partial
write. A process locks its file until it ends.
(docs/decisions/0020-endings-are-marked-outside-the-database.md)
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from uuid import UUID, uuid4

# A process has at most 8 transactions in flight. So a database that lost any ending of the process also lost one of its
# latest 8 endings. One disk sector holds 64 numbers.
NUMBERS_LIMIT = 64
_BLOCK = struct.Struct(f"<{NUMBERS_LIMIT}Q")
_SUFFIX = ".marks"


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
            self.path.mkdir(mode=0o700, exist_ok=True)
            # Create the file under another name, because other processes remove files that are not locked.
            unlocked = self.path / f"{self.process_id}.new"
            self._descriptor = os.open(
                unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
            )
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_block(())
            unlocked.rename(self._file(self.process_id))
            self._sync_names()
        except OSError as error:
            raise StateUnusable(
                f"the state directory {self.path} can't be written: {error.strerror}; make it writable for this user, "
                "or set SESSION_AUTHORITY_STATE_DIRECTORY to another directory"
            ) from None

    def write(self, numbers: Sequence[int]) -> None:
        """Write the latest numbers of this process, and wait for the disk.

        Raises:
            OSError: If the file can't be written.
        """
        self._write_block(numbers)
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
        """Remove the file of a process."""
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

    def _processes(self) -> Iterator[UUID]:
        for each in sorted(self.path.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(ValueError):  # not a file of this program
                yield UUID(each.stem)

    def _read_file(self, process_id: UUID) -> Set[int] | None:
        """Return the numbers in a file; None if another process has just removed it."""
        path = self._file(process_id)
        try:
            numbers = _BLOCK.unpack(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, struct.error) as error:
            reason = error.strerror if isinstance(error, OSError) else "it has a wrong size"
            raise StateUnusable(
                f"{path} can't be read: {reason}; without it, lost endings may stay unnoticed. If the database is "
                "complete, remove the file"
            ) from None
        return {number for number in numbers if number}

    def _has_ended(self, process_id: UUID) -> bool:
        if process_id == self.process_id:
            return False
        try:
            descriptor = os.open(self._file(process_id), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False  # Another process has just removed it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _write_block(self, numbers: Sequence[int]) -> None:
        assert self._descriptor is not None, "the directory is open"
        latest = numbers[-NUMBERS_LIMIT:]
        block = _BLOCK.pack(*latest, *(0 for _ in range(NUMBERS_LIMIT - len(latest))))
        os.pwrite(self._descriptor, block, 0)
        os.fdatasync(self._descriptor)

    def _sync_names(self) -> None:
        """Wait until the names of the directory's files are on the disk."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
