import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from session_authority_server.app import development_key
from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.event_key import event_key
from session_authority_server.app.process import CannotStart
from session_authority_server.check import database_identity
from session_authority_server.check.database_condition import (
    read_backlog,
    read_condition,
    read_last_check_time,
)
from session_authority_server.check.facts import Contents, Exposure, Facts, File
from session_authority_server.config import STANDARD_OUTPUT, Settings, is_loopback
from session_authority_server.domain.api_key import parse
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.token import SECRET_BYTES
from session_authority_server.store import schema
from session_authority_server.store.clock_times import read_latest_time
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.partitions import Partitions
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.upkeep import SqlUpkeepStore

_MOUNTS = Path("/proc/self/mounts")


async def gather(
    settings: Settings,
    database: Database,
    clock: Clock,
    *,
    insecure: bool = False,
    allow_plaintext: bool = False,
    tls_fault: str = "",
    tls_dates: tuple[datetime, datetime] | None = None,
    config_file: Path | None = None,
) -> Facts:
    """Gather the facts about an installation without changing it.

    Args:
        settings: The operator's settings.
        database: The database; read-only is enough.
        clock: The machine's clock.
        insecure: Whether the servers are started with `--insecure`.
        allow_plaintext: Whether the servers are started with `--allow-plaintext`.
        tls_fault: Why the certificate can't be used; empty if it can.
        tls_dates: The first and the last valid moment of the certificate, if known.
        config_file: The file that the settings were read from, if any.

    Raises:
        StoreUnavailable: If the database doesn't answer.
    """
    path = settings.sqlite_path
    version = await schema.read_version(database)
    now = clock.now()
    state = _state_directory(settings)
    return Facts(
        now=now,
        policy=settings.policy,
        exposure=Exposure(
            listen=settings.listen,
            is_loopback=is_loopback(settings.listen),
            tls=bool(settings.tls_certificate),
            tls_fault=tls_fault,
            tls_dates=tls_dates,
            allow_plaintext=allow_plaintext,
            insecure=insecure,
            metrics_listen=settings.metrics_listen,
            metrics_is_loopback=not settings.metrics_listen or is_loopback(settings.metrics_listen),
        ),
        worker_interval=timedelta(seconds=settings.worker_interval_seconds),
        audit_log=settings.audit_log,
        audit_addresses=settings.audit_addresses,
        condition=await read_condition(database),
        watch_is_verified=_is_verified(settings.watch_database_url),
        state_directory=state,
        state_filesystem="" if state is None else filesystem_of(state),
        filesystem="" if path is None else filesystem_of(path),
        hard_links=1 if path is None else path.stat().st_nlink,
        schema=version,
        clock_skew=await ClockSkew(database).measure(),
        files=list(_files(settings, config_file)),
        has_event_key=_has_event_key(settings),
        development_key_id=_development_key_id(settings),
        token_secret_bits=8 * SECRET_BYTES,
        contents=await _contents(database, now) if version.serves else None,
    )


def _has_event_key(settings: Settings) -> bool:
    try:
        return event_key(settings) is not None
    except CannotStart:
        return False  # This user may not read the key's file.


def _development_key_id(settings: Settings) -> UUID | None:
    try:
        presented = development_key.read(settings)
    except ValueError:
        return None  # the file holds no key
    key = None if presented is None else parse(presented)
    return None if key is None else key.id


def _is_verified(url: str) -> bool:
    if not url:
        return True
    try:
        parameters = database_identity.parameters_of(url)
    except ValueError:
        return True  # Servers refuse to start with this URL and report the error.
    return database_identity.is_server_verified(
        parameters
    ) or not database_identity.leaves_this_machine(parameters)


async def _contents(database: Database, now: datetime) -> Contents:
    keys = SqlKeyStore(database)
    return Contents(
        keys=await keys.read_keys(),
        uses=await keys.read_key_uses(),
        overdue_since=await SqlUpkeepStore(database).oldest_overdue(now),
        live_until=await read_last_check_time(database, now),
        backlog=await read_backlog(database),
        latest_time=await read_latest_time(database),
        sign_ins_until=await _sign_ins_until(Partitions(database), now),
        receivers=await SqlReceiverStore(database).read_receivers(),
    )


async def _sign_ins_until(partitions: Partitions, now: datetime) -> datetime | None:
    missing, span = await partitions.missing(now), await partitions.span()
    return min(missing) - span if missing and span is not None else None


def _state_directory(settings: Settings) -> Path | None:
    return Path(settings.state_directory).resolve() if settings.state_directory else None


def _files(settings: Settings, config_file: Path | None) -> Iterator[File]:
    wanted: list[tuple[Path, str]] = []
    if (path := settings.sqlite_path) is not None:
        file = path.resolve()
        wanted = [
            (file.with_name(file.name + ending), "users, addresses and sessions")
            for ending in ("", "-wal", "-shm")
        ]
        wanted.append((development_key.key_file(path), "an API key with all permissions"))
    elif config_file is not None:
        wanted.append((config_file, "settings, possibly with the database's password"))
    if settings.tls_key:
        wanted.append((Path(settings.tls_key), "the server's private key"))
    if settings.audit_log not in {"", STANDARD_OUTPUT}:
        wanted.append((Path(settings.audit_log), "the users' sign-ins"))
    for each, holds in wanted:
        try:
            mode = each.stat().st_mode & 0o7777
        except (OSError, ValueError):
            continue  # it doesn't exist, or this user can't see it
        yield File(path=each, holds=holds, mode=mode)


def filesystem_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of a file's file system, such as "ext4"; empty if unknown."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    return _longest_mount(os.fspath(path.resolve()), lines)


def _longest_mount(path: str, lines: Sequence[str]) -> str:
    found, kind = "", ""
    for line in lines:
        # The file escapes spaces and similar characters as octal numbers.
        point, type_ = (
            re.sub(r"\\([0-7]{3})", lambda each: chr(int(each[1], 8)), part)
            for part in line.split(" ")[1:3]
        )
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        # A later mount hides an earlier mount at the same path.
        if is_above and len(point) >= len(found):
            found, kind = point, type_
    return kind
