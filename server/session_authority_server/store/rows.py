"""Conversion between sessions and rows."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.device import Device
from session_authority_server.domain.liveness import is_swept
from session_authority_server.domain.session import Ending, Session, Sweep
from session_authority_server.store.liveness import current_global_epoch, current_user_epoch
from session_authority_server.store.tables import EVERYBODY, sessions, sweeps

# The columns of a session's device and ending, in the order of the fields of Device and Ending. Every other column
# that is read has the name of a field of Session.
_DEVICE = ("browser", "browser_version", "os", "os_version", "device_type")
_ENDING = ("end_time", "end_reason", "initiating_entity")
_FIELDS = tuple(field.name for field in fields(Session))
_DEVICE_AT, _ENDING_AT = _FIELDS.index("device"), _FIELDS.index("ending")
_READ = (*_FIELDS[:_DEVICE_AT], *_DEVICE, *_FIELDS[_DEVICE_AT + 1 : _ENDING_AT], *_ENDING)
_DEVICE_COLUMNS = slice(_DEVICE_AT, _DEVICE_AT + len(_DEVICE))
_BETWEEN = slice(_DEVICE_AT + len(_DEVICE), -len(_ENDING))
_CURRENT_EPOCHS = {
    each.name: each
    for each in (
        current_user_epoch.label("current_user_epoch"),
        current_global_epoch.label("current_global_epoch"),
    )
}
_COLUMNS = tuple(
    _CURRENT_EPOCHS[name] if name in _CURRENT_EPOCHS else sessions.c[name] for name in _READ
)
_WRITTEN = tuple(name for name in _FIELDS if name in sessions.c)

# The values of the columns that `domain.privacy.erased` erases.
ERASED: dict[str, Any] = {
    "ip_address": None,
    "last_ip_address": None,
    "user_agent": "",
    "browser_version": "",
    "os_version": "",
}


def select_sessions() -> Select[Any]:
    """Return a SELECT of all sessions in the form that `read` expects. The caller adds conditions."""
    return select(*_COLUMNS)


async def read(
    connection: AsyncConnection, statement: Select[Any], parameters: dict[str, Any] | None = None
) -> list[Session]:
    """Run a statement based on `select_sessions`, and return its sessions with their sweeps."""
    rows = (await connection.execute(statement, parameters)).all()
    return await with_sweeps(connection, [session(row) for row in rows])


def needs_sweep(session: Session) -> bool:
    """Return whether a sweep has ended a session but the ending is not recorded yet."""
    return session.ending is None and is_swept(session)


def as_row(session: Session, check_time: datetime) -> dict[str, Any]:
    """Return the column values of a session that has not ended."""
    device = session.device
    parts = (device.browser, device.browser_version, device.os, device.os_version, device.type)
    return {
        **{name: getattr(session, name) for name in _WRITTEN},
        **dict(zip(_DEVICE, parts, strict=True)),
        "check_time": check_time,
    }


def ending_columns(ending: Ending) -> dict[str, Any]:
    """Return the column values of an ending."""
    parts = (ending.time, ending.reason, ending.initiated_by)
    return dict(zip(_ENDING, parts, strict=True))


def session(row: Sequence[Any]) -> Session:
    """Return the session of a row that `select_sessions` selected."""
    end_time, end_reason, initiated_by = row[-3:]
    parts: Sequence[Any] = (
        *row[:_DEVICE_AT],
        Device(*row[_DEVICE_COLUMNS]),
        *row[_BETWEEN],
        None if end_time is None else Ending(end_time, end_reason, initiated_by),
    )
    return Session(*parts)


async def with_sweeps(connection: AsyncConnection, found: Sequence[Session]) -> list[Session]:
    """Return the sessions, and add to each swept one the earliest sweep that covers it."""
    swept = [session for session in found if needs_sweep(session)]
    if not swept:
        return list(found)
    keys = {(session.user_id, session.user_epoch + 1) for session in swept}
    keys |= {(EVERYBODY, session.global_epoch + 1) for session in swept}
    statement = select(
        sweeps.c.user_id, sweeps.c.epoch, sweeps.c.sweep_time, sweeps.c.initiating_entity
    ).where(tuple_(sweeps.c.user_id, sweeps.c.epoch).in_(list(keys)))
    recorded = {
        (user_id, epoch): Sweep(sweep_time, initiating_entity)
        for user_id, epoch, sweep_time, initiating_entity in await connection.execute(statement)
    }

    def earliest(session: Session) -> Sweep | None:
        covering = (
            recorded.get((session.user_id, session.user_epoch + 1)),
            recorded.get((EVERYBODY, session.global_epoch + 1)),
        )
        known = (sweep for sweep in covering if sweep is not None)
        return min(known, key=lambda sweep: sweep.time, default=None)

    return [
        replace(session, sweep=earliest(session)) if needs_sweep(session) else session
        for session in found
    ]
