"""The key that the first server of a SQLite file makes, so that nobody has to make one to begin with.

It may do everything, and lies in a file beside the database that only its owner can read.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from session_authority_server.config import ENV_PREFIX, Settings
from session_authority_server.domain.api_key import Permission, issue
from session_authority_server.domain.event import KeyCreated
from session_authority_server.store.protocol import KeyStore
from session_authority_server.usecases.audit import NOWHERE, Audit

VARIABLE = f"{ENV_PREFIX}API_KEY"
_NAME = "development"


def key_file(database: Path) -> Path:
    """Return the file that holds, or would hold, the development key of a SQLite file."""
    file = database.resolve()
    return file.with_name(file.name + ".key")


async def make(database: Path, store: KeyStore, now: datetime, audit: Audit = NOWHERE) -> str:
    """Make the development key, tell the audit log so, and return it.

    Raises:
        OSError: If its file can't be written.
        StoreUnavailable: If the store failed.
    """
    key, presented = issue(_NAME, frozenset(Permission), now, lifetime=None)
    # The file first: whoever dies in between leaves no key that nobody has, and the next one makes both.
    _write(key_file(database), presented)
    await store.add_key(key)
    audit.record(KeyCreated(str(key.key_id), now))
    return presented


def presented_by(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the key with which this program's own clients call, if there is one.

    That is the one in the environment, or else the development key of the database.
    """
    return environment.get(VARIABLE) or read(settings)


def read(settings: Settings) -> str | None:
    """Return the development key of the database, if it has one and we may read it."""
    if settings.sqlite_path is None:
        return None
    try:
        return key_file(settings.sqlite_path).read_text().strip() or None
    except OSError:
        return None


def _write(file: Path, presented: str) -> None:
    """Write a key, readable for nobody else at any moment, in place of one that was there before."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{presented}\n")
    fresh.replace(file)
