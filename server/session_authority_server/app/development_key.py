"""Create and read the development key of a SQLite file.

The first server of the file creates the key, which has all permissions. The key is stored beside the database, in a
file that only its owner can read.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import structlog

from session_authority_server.app.process import CannotStart
from session_authority_server.config import ENV_PREFIX, Settings
from session_authority_server.domain.api_key import Permission, issue
from session_authority_server.domain.event import KeyCreated
from session_authority_server.ports.store import NO_AUDIT, Audit, KeyStore

VARIABLE = f"{ENV_PREFIX}API_KEY"
_NAME = "development"

_log = structlog.get_logger("session_authority")


def key_file(database: Path) -> Path:
    """Return the path of the development key's file, which may not exist."""
    file = database.resolve()
    return file.with_name(file.name + ".key")


async def make_first_key(
    settings: Settings,
    store: KeyStore,
    now: datetime,
    audit: Audit,
    show_key: Callable[[str], None],
) -> None:
    """Create the development key if no key was ever created. For PostgreSQL, log how to create a key.

    Raises:
        CannotStart: If the key's file can't be written.
        StoreUnavailable: If the store failed.
    """
    if await store.read_keys():
        return
    path = settings.sqlite_path
    if path is None:
        _log.warning(
            "there is no API key, so every call is refused; create one: session-authority keys create"
        )
        return
    try:
        key = await make(path, store, now, audit)
    except OSError as error:
        raise CannotStart(
            f"the development key {key_file(path)} can't be written: {error.strerror}"
        ) from None
    show_key(key)


async def make(database: Path, store: KeyStore, now: datetime, audit: Audit = NO_AUDIT) -> str:
    """Create the development key, record that in the audit log, and return the key.

    Raises:
        OSError: If the key's file can't be written.
        StoreUnavailable: If the store failed.
    """
    key, presented = issue(_NAME, frozenset(Permission), now, lifetime=None)
    # Write the file first: after a crash in between, no key is stored, and the next process creates a new one.
    _write(key_file(database), presented)
    await store.add_key(key)
    audit.record(KeyCreated(str(key.key_id), now))
    return presented


def presented_by(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the key for this program's own clients: from the environment, or else the development key."""
    return environment.get(VARIABLE) or read(settings)


def read(settings: Settings) -> str | None:
    """Return the development key of a SQLite database.

    Return None if the database is PostgreSQL, if the key's file is missing or empty, or if this process may not read
    the file.
    """
    if settings.sqlite_path is None:
        return None
    try:
        return key_file(settings.sqlite_path).read_text().strip() or None
    except OSError:
        return None


def _write(file: Path, presented: str) -> None:
    """Replace the key's file, without ever letting other users read the key."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{presented}\n")
    fresh.replace(file)
