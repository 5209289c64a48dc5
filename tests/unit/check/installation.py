"""The facts of an installation without faults, which tests change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from session_authority_server.check.database_condition import (
    Backlog,
    PostgresqlCondition,
    SqliteCondition,
)
from session_authority_server.check.facts import Contents, Exposure, Facts, File
from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission, issue
from session_authority_server.domain.policy import Policy
from session_authority_server.store.schema import SchemaVersion

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

POLICY = Policy(
    absolute_lifetime=12 * HOUR, idle_timeout=15 * MINUTE, max_authentication_age=10 * MINUTE
)
EXPOSURE = Exposure(
    listen="0.0.0.0:50551",
    is_loopback=False,
    tls=True,
    tls_fault="",
    tls_dates=(NOW - 60 * DAY, NOW + 30 * DAY),
    allow_plaintext=False,
    insecure=False,
    metrics_listen="",
    metrics_is_loopback=True,
)
LOCAL = replace(EXPOSURE, listen="127.0.0.1:50551", is_loopback=True, tls=False)
POSTGRESQL = PostgresqlCondition(
    synchronous_commit="on",
    fsync=True,
    full_page_writes=True,
    waits_for_standbys=True,
    standbys=1,
    asynchronous_standbys=0,
    encrypted=True,
    verified=True,
    is_local=False,
)
SQLITE = SqliteCondition(journal_mode="wal")
NOTHING_UNFINISHED = Backlog(sweep_time=None, erase_time=None)


def a_key(*permissions: Permission, name: str = "shop", **changes: Any) -> ApiKey:
    """Return a key that was created 60 days ago, was used just now, and expires in 60 days."""
    key, _ = issue(name, frozenset(permissions or Permission), NOW - 60 * DAY, lifetime=120 * DAY)
    return replace(key, **{"last_used_time": NOW, **changes})


def used(*permissions: Permission, first: datetime, last: datetime) -> dict[Permission, KeyUse]:
    return dict.fromkeys(permissions, KeyUse(first, last))


def contents(
    *keys: ApiKey,
    uses: Mapping[UUID, Mapping[Permission, KeyUse]] | None = None,
    **changes: Any,
) -> Contents:
    """Return tables with keys that are all in use. The default is one key for each permission."""
    kept: Sequence[ApiKey] = keys or [a_key(each, name=each.value) for each in Permission]
    if uses is None:
        uses = {key.key_id: used(*key.permissions, first=NOW - 59 * DAY, last=NOW) for key in kept}
    given: dict[str, Any] = {
        "overdue_since": None,
        "live_until": None,
        "backlog": NOTHING_UNFINISHED,
        "sign_ins_until": None,
        "latest_time": None,
        "receivers": (),
        **changes,
    }
    return Contents(keys=kept, uses=uses, **given)


def an_installation(**changes: Any) -> Facts:
    """Return the facts of an installation without faults, with some changes."""
    given: dict[str, Any] = {
        "now": NOW,
        "policy": POLICY,
        "exposure": EXPOSURE,
        "worker_interval": 30 * SECOND,
        "audit_log": "/var/log/audit.jsonl",
        "audit_addresses": False,
        "condition": POSTGRESQL,
        "watch_is_verified": True,
        "state_directory": Path("/var/lib/session-authority"),
        "state_filesystem": "ext4",
        "filesystem": "",
        "hard_links": 1,
        "schema": SchemaVersion("0007", "0007", known=True, oldest_program=None),
        "clock_skew": timedelta(0),
        "files": [File(path=Path("/etc/authority/tls.key"), holds="a key", mode=0o640)],
        "has_event_key": True,
        "development_key_id": None,
        "token_secret_bits": 256,
        "contents": contents(),
        **changes,
    }
    return Facts(**given)
