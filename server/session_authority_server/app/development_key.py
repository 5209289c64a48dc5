"""The development key, which the first server of a SQLite file makes.

The key permits everything. It lies beside the database in a file that only the file's owner can read.
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
from session_authority_server.ports import NO_AUDIT, Audit, KeyStore

VARIABLE = f"{ENV_PREFIX}API_KEY"
_NAME = "development"

_log = structlog.get_logger("session_authority")


def key_file(database: Path) -> Path:
    """Return the file that holds, or would hold, the development key of a SQLite file."""
    file = database.resolve()
    return file.with_name(file.name + ".key")


async def make_first_key(
    settings: Settings,
    store: KeyStore,
    now: datetime,
    audit: Audit,
    show_key: Callable[[str], None],
) -> None:
    """Make the development key if there has never been a key. For PostgreSQL, ask the operator to make one.

    Raises:
        CannotStart: If the key's file can't be written.
        StoreUnavailable: If the store failed.
    """
    if await store.read_keys():
        return
    path = settings.sqlite_path
    if path is None:
        _log.warning(
            "there is no API key, so every call is refused; make one: session-authority keys create"
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
    """Make the development key, record that in the audit log, and return the key.

    Raises:
        OSError: If its file can't be written.
        StoreUnavailable: If the store failed.
    """
    key, presented = issue(_NAME, frozenset(Permission), now, lifetime=None)
    # The file first: a process that dies in between stores no key that is lost, and the next process makes both.
    _write(key_file(database), presented)
    await store.add_key(key)
    audit.record(KeyCreated(str(key.key_id), now))
    return presented


def presented_by(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the key for this program's own clients: from the environment, or else the development key."""
    return environment.get(VARIABLE) or read(settings)


def read(settings: Settings) -> str | None:
    """Return the development key of the database, if there is one and this user may read it."""
    if settings.sqlite_path is None:
        return None
    try:
        return key_file(settings.sqlite_path).read_text().strip() or None
    except OSError:
        return None


def _write(file: Path, presented: str) -> None:
    """Replace the key's file. At no moment can another user read the key."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{presented}\n")
    fresh.replace(file)
