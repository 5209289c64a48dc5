"""SQLite: its connections, and the locks that decide which process may open the file.

SQLite keeps a log (`-wal`) and the log's index (`-shm`) beside the *name* by which it opened a file. Two names for one
file lead to two logs, which corrupt the file. If a file is replaced while a connection is open, further commits go to
the old file and are lost.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Insert,
    Select,
    Table,
    bindparam,
    event,
    func,
    null,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from session_authority_server.domain.session import Changes
from session_authority_server.store.engine import aiosqlite_batching, limits
from session_authority_server.store.engine.dialect import Unpack
from session_authority_server.store.tables import sessions

# The estimate of live sessions counts up to this number.
LIVE_COUNT_LIMIT = 100_000
_BUSY_TIMEOUT_MILLISECONDS = 1_500
# The page cache of one connection: enough for about ten thousand sessions in use, spread over a large file.
_CACHE_KIBIBYTES = 65_536
_PRAGMAS_READING = (f"busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}", "temp_store = MEMORY")
_PRAGMAS = (
    *_PRAGMAS_READING,
    "journal_mode = WAL",
    "synchronous = FULL",
    f"cache_size = -{_CACHE_KIBIBYTES}",
)
# SQLite's locks belong to the process: all of them end when the process closes any descriptor of the file. The locks
# here belong to a descriptor. Both kinds conflict with each other, so these locks cover a byte that SQLite never locks.
_LOCKS_BY_DESCRIPTOR = sys.platform == "linux"
_STRUCT_FLOCK = "hhqqi4x"  # on Linux: type, whence, start, length, process
_LOCK_BYTE = 1 << 62, 1  # offset and length
_BUSY_SECONDS = 1.5
# A server takes and releases its two locks one after the other. A command that finds only one of them held checks again
# for this long, because the server may be starting or stopping.
_STARTING_SECONDS = 0.2

Identity = tuple[int, int] | None


class AlreadyServed(Exception):
    """Another server has the SQLite file open, so this process must not open it."""


class FileReplaced(Exception):
    """The SQLite file that this process opened was moved, removed or replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"the database {path}, its -wal or its -shm was moved, removed or replaced while it was open; stop the "
            "server, put the files in their place, then start the server again"
        )


class SqliteFile:
    """Claims a SQLite file for this process, and detects whether the file was moved or replaced.

    A server takes two locks: one on the file, and one on a lock file beside it, which stands for the file's name. Any
    other command requires that both are taken, or neither. If only the first is taken, a server has opened the file
    under another name. If only the second is taken, a server has another file open under this name.
    """

    def __init__(self, path: Path, *, serve: bool = False) -> None:
        """Take the path of an existing file.

        Args:
            path: The path.
            serve: Whether this process is to be the only server of the file.
        """
        self.path = path.absolute()
        self._serve = serve
        file = path.resolve()  # SQLite puts the log beside the file, not beside a symbolic link.
        beside = [file.with_name(file.name + ending) for ending in ("-wal", "-shm", ".lock")]
        self._paths = [os.fspath(each) for each in dict.fromkeys((self.path, file, *beside[:2]))]
        self._lock_path = beside[2]
        self._descriptors: list[int] = []
        self._anchor: sqlite3.Connection | None = None
        self._opened: list[Identity] = []

    def __enter__(self) -> Self:
        """Claim the file.

        Raises:
            AlreadyServed: If `serve` is set and another server has the file open. Also if a server has the file open
                under another name.
            FileReplaced: If the path led to another file by the time the log was opened. Also if the running server
                has another file open under this name.
            OSError: If the file or its folder can't be used.
            sqlite3.Error: If the file is not a database.
        """
        try:
            if self._serve:
                self._lock()
            else:
                self._check_locks()
            self._open_log()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the file. All other connections of this process to it must be closed."""
        if self._anchor is not None:
            if not self.is_in_place():
                _empty_log(self._anchor)
            self._anchor.close()
            self._anchor = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    @property
    def links(self) -> int:
        """How many names (hard links) the file has."""
        return os.fstat(self._descriptors[-1]).st_nlink

    def is_in_place(self) -> bool:
        """Return whether the file, its log and the log's index are those that were opened. Takes microseconds."""
        return self._read_identities() == self._opened

    def displaced(self) -> FileReplaced | None:
        """Return an error if the file was moved, removed or replaced. Commits may then be lost."""
        return None if self.is_in_place() else FileReplaced(self.path)

    def _read_identities(self) -> list[Identity]:
        return [_identity(path) for path in self._paths]

    def _open_log(self) -> None:
        # SQLite does not delete the log while this connection is open, so the log keeps its identity.
        self._anchor = _anchor(self.path)
        self._opened = self._read_identities()
        status = os.fstat(self._descriptors[-1])
        if self._opened[0] != (status.st_dev, status.st_ino):
            raise FileReplaced(self.path)

    def _lock(self) -> None:
        name = self._open(self._lock_path, os.O_RDWR | os.O_CREAT)
        if not _take_lock(name):
            raise AlreadyServed(
                f"another process serves {self.path}; SQLite supports only one server process. Stop that process, or "
                "set SESSION_AUTHORITY_DATABASE_URL to another file"
            )
        file = self._open(self.path, os.O_RDWR)
        if _LOCKS_BY_DESCRIPTOR and not _take_lock(file):
            raise self._known_by_another_name()

    def _check_locks(self) -> None:
        file = self._open(self.path, os.O_RDWR)
        give_up = time.monotonic() + _STARTING_SECONDS
        while (by_file := _is_locked(file)) != self._is_name_locked():
            if time.monotonic() < give_up:
                time.sleep(_STARTING_SECONDS / 10)
            elif by_file:
                raise self._known_by_another_name()
            else:
                raise FileReplaced(self.path)

    def _is_name_locked(self) -> bool:
        try:
            descriptor = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return _is_locked(descriptor)
        finally:
            os.close(descriptor)

    def _known_by_another_name(self) -> AlreadyServed:
        return AlreadyServed(
            f"another process serves {self.path} by another name (a hard link or a bind mount); two names lead to two "
            "logs, which corrupt the file. Use the same name as that process, and remove the other name"
        )

    def _open(self, path: Path, flags: int) -> int:
        self._descriptors.append(os.open(path, flags | os.O_CLOEXEC, 0o600))
        return self._descriptors[-1]


class Sqlite:
    """The dialect for a SQLite file. One transaction writes at a time."""

    takes_arrays = False
    time_query: str | None = None
    driver_errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(
        self, path: Path, *, read_only: bool = False, file: SqliteFile | None = None
    ) -> None:
        self.read_only = read_only
        self._file = file
        self.url = URL.create("sqlite+aiosqlite", database=str(path))
        if read_only:
            self.url = URL.create(
                "sqlite+aiosqlite",
                database=path.absolute().as_uri(),
                query={"mode": "ro", "uri": "true"},
            )

    def reader(self) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=limits.READERS,
            max_overflow=0,
            pool_timeout=limits.WAIT_SECONDS,
        )
        event.listen(engine.sync_engine, "do_connect", aiosqlite_batching.connect)
        event.listen(engine.sync_engine, "connect", self._prepare)
        return engine

    def writer(self) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            pool_reset_on_return=None,
            pool_size=1,
            max_overflow=0,
            pool_timeout=limits.WAIT_SECONDS,
        )
        event.listen(engine.sync_engine, "do_connect", aiosqlite_batching.connect)
        event.listen(engine.sync_engine, "reset", aiosqlite_batching.reset)
        event.listen(engine.sync_engine, "connect", self._prepare)

        @event.listens_for(engine.sync_engine, "begin")
        def wait_before_reading(connection: Any) -> None:
            # Takes the write lock before the first read, so that no other transaction changes the rows read. On a
            # read-only connection it takes no lock.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def _prepare(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None  # The driver must not begin transactions by itself.
        try:
            self._check_place()
            _set_pragmas(connection, _PRAGMAS_READING if self.read_only else _PRAGMAS)
        except BaseException:
            connection.close()  # The pool never receives this connection, so it can't close it.
            raise

    def _check_place(self) -> None:
        if self._file is not None and (displaced := self._file.displaced()) is not None:
            raise sqlite3.OperationalError(str(displaced))

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        return column.in_(bindparam("ids", expanding=True))

    def packed(self, statement: Select[Any]) -> tuple[Select[Any], Unpack]:
        return statement, tuple

    async def fetch_packed(
        self, driver: Any, statement_for: Callable[[int], str], ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        raw_ids = [each.bytes for each in ids]
        size = (
            1 << (len(ids) - 1).bit_length()
        )  # Powers of two, so that few different statements are prepared.
        raw_ids += raw_ids[-1:] * (size - len(ids))
        return list(await driver.execute_fetchall(statement_for(size), raw_ids))

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        pass  # No other process serves the file.

    async def estimate_live(self, connection: AsyncConnection, now: datetime) -> int:
        # Counts entries of the index of sessions without an ending. SQLite keeps no statistics by itself.
        live = (
            select(sessions.c.check_time)
            .where(sessions.c.end_time.is_(None), sessions.c.check_time > now)
            .limit(LIVE_COUNT_LIMIT)
        )
        counting = select(func.count()).select_from(live.subquery())
        return int((await connection.execute(counting)).scalar_one())

    def insert_if_absent(self, table: Table) -> Insert:
        return sqlite.insert(table).on_conflict_do_nothing(list(table.primary_key))

    def identity_locks(self, hashes: Sequence[bytes]) -> Sequence[ColumnElement[Any]]:
        return ()  # Only one transaction writes at a time.

    async def lock_identity(self, connection: AsyncConnection, identity_hash: bytes) -> None:
        pass

    def try_migration_lock(self, connection: Connection) -> bool:
        return True  # Only one transaction writes at a time.

    def worker_settings(self, *, durable: bool = False) -> ColumnElement[Any]:
        return null()

    async def interrupt(self, driver: Any) -> None:
        await driver.interrupt()

    def cut_off(self, driver: Any) -> None:
        pass  # SQLite runs in this process, so it never misses an interrupt.


def _identity(path: str) -> Identity:
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, before every commit
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _anchor(path: Path) -> sqlite3.Connection:
    """Open a connection that is not used for queries.

    While it is open, SQLite does not delete the write-ahead log (`-wal`) and its index (`-shm`).
    """
    anchor = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        anchor.execute("PRAGMA journal_mode = WAL")
        anchor.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        anchor.close()
        raise
    return anchor


def _empty_log(connection: sqlite3.Connection) -> None:
    """Move all commits from the log to the file of the open connection, even if the file was moved.

    SQLite keeps the log when it closes a moved file. If another file has taken the place, SQLite would later apply
    this log to the wrong file and corrupt it.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _take_lock(descriptor: int) -> bool:
    """Lock a file until its descriptor is closed. Return False if another process has the lock."""
    try:
        if _LOCKS_BY_DESCRIPTOR:
            _fcntl(descriptor, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, _LOCK_BYTE)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    if not _LOCKS_BY_DESCRIPTOR:
        return False
    return _fcntl(descriptor, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, _LOCK_BYTE) != fcntl.F_UNLCK


def _fcntl(descriptor: int, command: int, kind: int, span: tuple[int, int]) -> int:
    lock = struct.pack(_STRUCT_FLOCK, kind, os.SEEK_SET, *span, 0)
    found: int = struct.unpack(_STRUCT_FLOCK, fcntl.fcntl(descriptor, command, lock))[0]
    return found


def _set_pragmas(connection: Any, pragmas: Sequence[str]) -> None:
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
