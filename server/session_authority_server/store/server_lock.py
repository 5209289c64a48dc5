import fcntl
import os
from pathlib import Path
from typing import Self


class AlreadyServed(Exception):
    """Another server process serves the same SQLite file."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process serves {path}; SQLite takes one server process. Stop that one, or name "
            "another file in SESSION_AUTHORITY_DATABASE_URL"
        )


class ServerLock:
    """Held by the one server process of a SQLite file; let go by the system when the process ends."""

    def __init__(self, database: Path) -> None:
        self._database = database
        # Of the file itself, not of a link to it.
        file = database.resolve()
        self._file = file.with_name(file.name + ".lock")
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            AlreadyServed: If another process has it.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyServed(self._database) from None
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock. The file stays: removing it would let two processes hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
