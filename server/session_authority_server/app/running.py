"""Log what a process runs with, and reload what may change while it runs."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from session_authority_server.config import ConfigurationError, Settings, load_settings
from session_authority_server.domain.duration import format_duration
from session_authority_server.domain.policy import Policy
from session_authority_server.observability import logs
from session_authority_server.rpc.certificates import Certificates
from session_authority_server.store import schema
from session_authority_server.store.database import Database

_log = structlog.get_logger("session_authority")


async def log_start(program: str, settings: Settings, database: Database, **more: object) -> None:
    """Log the start of a server or worker, with its version, database, schema and policy.

    Raises:
        StoreUnavailable: If the schema's version can't be read.
    """
    _log.info(
        "started",
        program=program,
        version=version("session-authority"),
        database=settings.database,
        schema=(await schema.read_version(database)).current,
        metrics=settings.metrics_listen or None,
        policy=_shown(settings.policy),
        **more,
    )


def _shown(policy: Policy) -> dict[str, object]:
    """Return a policy for a log line: durations such as `90d`, and the values of enums."""
    fields: dict[str, object] = asdict(policy)
    for name, value in fields.items():
        if isinstance(value, timedelta):
            fields[name] = format_duration(value)
        elif isinstance(value, Enum):
            fields[name] = value.value
    return fields


def read_log_level(
    config_file: Path | None, load: Callable[[Path | None], Any] = load_settings
) -> str | None:
    """Return the log level that the settings name now. If they are invalid, log that and return None.

    Args:
        config_file: The configuration file, if one was given.
        load: Returns the settings of the program.
    """
    try:
        level: str = load(config_file).log_level
    except ConfigurationError as error:
        _log.error("settings can't be reloaded; the old ones stay", why=str(error))
        return None
    return level


def reload(log_level: str | None, certificates: Certificates | None = None) -> None:
    """Apply a log level and read the certificates again, and log what was reloaded."""
    if log_level is not None:
        logs.set_level(log_level)
    if certificates is not None:
        certificates.reload()
