"""Copy a SQLite file while servers use it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path


class BackupFailed(Exception):
    """The backup could not be made. The message says why."""


def copy(file: Path, backup: Path) -> Path:
    """Copy a SQLite file to a new file beside `backup`, and check the copy. Return the path of the copy.

    The copy holds every commit that was acknowledged before the call.

    Raises:
        BackupFailed: If the copy can't be written, or is damaged.
    """
    copied = backup.with_name(backup.name + ".new")
    try:
        # The backup holds the users' ids and addresses, so other users must not read it.
        os.close(os.open(copied, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise BackupFailed(
            f"{copied} exists: another backup runs, or one was interrupted; if none runs, remove the file"
        ) from None
    except OSError as error:
        raise BackupFailed(f"{copied} can't be written: {error.strerror}") from None
    try:
        fault = _copy(file, copied)
    except sqlite3.Error as error:
        fault = str(error)
    if fault != "ok":
        copied.unlink()
        raise BackupFailed(f"{file} can't be copied: {fault}")
    return copied


def publish(copied: Path, backup: Path) -> None:
    """Give a checked copy its final name once it is on the disk. Never overwrite a file.

    Raises:
        BackupFailed: If the name exists already.
    """
    _sync(copied)
    try:
        os.link(copied, backup)
    except FileExistsError:
        raise BackupFailed(
            f"{backup} exists already; give another name, or remove the file"
        ) from None
    finally:
        copied.unlink()
    _sync(backup.parent)


def _copy(file: Path, copied: Path) -> str:
    """Copy a database. Return "ok", or what is wrong with the copy."""
    with (
        closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copied)) as target,
    ):
        source.backup(target)  # One step, so that it reads one state of the database.
        target.execute("PRAGMA journal_mode = DELETE")  # Leaves no log beside the backup.
        fault: str = target.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return fault


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
