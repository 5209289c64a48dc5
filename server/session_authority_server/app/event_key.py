"""The key from which the secrets of receivers are derived.

It is a setting. Without one, the first process that needs it creates a key in the state directory, in a file that only
its owner can read.
"""

import contextlib
import os
import secrets
from pathlib import Path

from session_authority_server.app.process import CannotStart
from session_authority_server.config import Settings

_NAME = "event.key"
_BYTES = 32


def event_key(settings: Settings, *, make: bool = False) -> bytes | None:
    """Return the key; None if there is none.

    Args:
        settings: The operator's settings.
        make: Whether to create the key if there is none. Without a state directory, none can be created.

    Raises:
        CannotStart: If the key's file can't be read or written.
    """
    if settings.event_key:
        return settings.event_key.encode()
    if settings.state_path is None:
        return None
    file = settings.state_path / _NAME
    try:
        return _read(file) or (_make(file) if make else None)
    except OSError as error:
        raise CannotStart(
            f"the key of events {file} can't be used: {error.strerror}; make it usable for this user, "
            "or set SESSION_AUTHORITY_EVENT_KEY"
        ) from None


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes().strip() or None
    except FileNotFoundError:
        return None


def _make(file: Path) -> bytes | None:
    """Write a new key, unless another process has just written one. Return the key of the file."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{secrets.token_hex(_BYTES)}\n")
            opened.flush()
            os.fsync(opened.fileno())
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(fresh)  # Unlike a rename, this replaces no key.
    finally:
        fresh.unlink(missing_ok=True)
    return _read(file)
