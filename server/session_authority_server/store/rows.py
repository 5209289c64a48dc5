"""Sessions to rows and back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.device import Device
from session_authority_server.domain.liveness import is_swept
from session_authority_server.domain.session import Ending, Session, Sweep
from session_authority_server.store.liveness import current_global_epoch, current_user_epoch
from session_authority_server.store.tables import EVERYBODY, sessions, sweeps

_COLUMNS = (
    sessions.c.session_id,
    sessions.c.user_id,
    sessions.c.secret_hash,
    sessions.c.superseded_hashes,
    sessions.c.browser,
    sessions.c.browser_version,
    sessions.c.os,
    sessions.c.os_version,
    sessions.c.device_type,
    sessions.c.ip_address,
    sessions.c.last_ip_address,
    sessions.c.create_time,
    sessions.c.authenticate_time,
    sessions.c.authentication_methods,
    sessions.c.last_active_time,
    sessions.c.lifetime,
    sessions.c.expire_time,
    sessions.c.idle_timeout,
    sessions.c.attributes,
    sessions.c.created_by,
    sessions.c.actor_id,
    sessions.c.user_epoch,
    sessions.c.global_epoch,
    current_user_epoch.label("current_user_epoch"),
    current_global_epoch.label("current_global_epoch"),
    sessions.c.end_time,
    sessions.c.end_reason,
    sessions.c.initiating_entity,
)


# What `domain.privacy.erased` leaves of a session, in columns.
ERASED: dict[str, Any] = {
    "ip_address": None,
    "last_ip_address": None,
    "user_agent": "",
    "browser_version": "",
    "os_version": "",
}


def select_sessions() -> Select[Any]:
    """Return a statement whose rows `read` understands, for the caller to narrow."""
    return select(*_COLUMNS)


async def read(
    connection: AsyncConnection, statement: Select[Any], parameters: dict[str, Any] | None = None
) -> list[Session]:
    """Return the sessions that a statement made by `select_sessions` selects."""
    rows = (await connection.execute(statement, parameters)).all()
    return await dated(connection, [session(row) for row in rows])


def needs_date(session: Session) -> bool:
    """Say whether a session's ending by a sweep is implied but not recorded."""
    return session.ending is None and is_swept(session)


def as_row(session: Session, check_time: datetime) -> dict[str, Any]:
    """Return the columns of a session but for its epochs, which only the store knows."""
    return {
        "session_id": session.session_id,
        "user_id": session.user_id,
        "secret_hash": session.secret_hash,
        "superseded_hashes": session.superseded_hashes,
        "create_time": session.create_time,
        "authenticate_time": session.authenticate_time,
        "last_active_time": session.last_active_time,
        "lifetime": session.lifetime,
        "expire_time": session.expire_time,
        "idle_timeout": session.idle_timeout,
        "check_time": check_time,
        "ip_address": session.ip_address,
        "last_ip_address": session.last_ip_address,
        "user_agent": session.user_agent,
        "browser": session.device.browser,
        "browser_version": session.device.browser_version,
        "os": session.device.os,
        "os_version": session.device.os_version,
        "device_type": session.device.type,
        "authentication_methods": session.authentication_methods,
        "attributes": session.attributes,
        "created_by": session.created_by,
        "actor_id": session.actor_id,
    }


def ending_columns(ending: Ending) -> dict[str, Any]:
    """Return the columns of an ending."""
    return {
        "end_time": ending.time,
        "end_reason": ending.reason,
        "initiating_entity": ending.initiated_by,
    }


def session(row: Sequence[Any]) -> Session:
    """Return the session of a row that `select_sessions` selected."""
    (
        session_id,
        user_id,
        secret_hash,
        superseded_hashes,
        browser,
        browser_version,
        os,
        os_version,
        device_type,
        ip_address,
        last_ip_address,
        create_time,
        authenticate_time,
        authentication_methods,
        last_active_time,
        lifetime,
        expire_time,
        idle_timeout,
        attributes,
        created_by,
        actor_id,
        user_epoch,
        global_epoch,
        current_user_epoch,
        current_global_epoch,
        end_time,
        end_reason,
        initiating_entity,
    ) = row
    return Session(
        session_id=session_id,
        user_id=user_id,
        secret_hash=secret_hash,
        superseded_hashes=superseded_hashes,
        device=Device(browser, browser_version, os, os_version, device_type),
        ip_address=ip_address,
        last_ip_address=last_ip_address,
        create_time=create_time,
        authenticate_time=authenticate_time,
        authentication_methods=authentication_methods,
        last_active_time=last_active_time,
        lifetime=lifetime,
        expire_time=expire_time,
        idle_timeout=idle_timeout,
        attributes=attributes,
        created_by=created_by,
        actor_id=actor_id,
        user_epoch=user_epoch,
        global_epoch=global_epoch,
        current_user_epoch=current_user_epoch,
        current_global_epoch=current_global_epoch,
        ending=Ending(end_time, end_reason, initiating_entity) if end_time is not None else None,
    )


async def dated(connection: AsyncConnection, found: Sequence[Session]) -> list[Session]:
    """Return sessions, each swept one with the earliest sweep that covers it."""
    swept = [session for session in found if needs_date(session)]
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
        replace(session, sweep=earliest(session)) if needs_date(session) else session
        for session in found
    ]
