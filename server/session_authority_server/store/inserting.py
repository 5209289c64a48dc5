"""Insert the row of a new session. The INSERT itself reads the epochs, and decides whether the device is new."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    and_,
    bindparam,
    exists,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.session import Session
from session_authority_server.store import rows
from session_authority_server.store.identities import identity_revoked_time
from session_authority_server.store.liveness import current_global_epoch
from session_authority_server.store.tables import sessions, users

# How many of a user's ended sessions, and how many of the others, are compared with the device of a sign-in.
DEVICES_COMPARED = 1_000

_COMPUTED = ("user_epoch", "global_epoch", "new_device")
# Columns that identify a device, with the names of their parameters. The names of columns are reserved in an INSERT.
_DEVICE = {name: f"new_{name}" for name in ("browser", "os", "device_type")}
_USER: BindParameter[str] = bindparam("of_user")


async def insert_row(
    connection: AsyncConnection, session: Session, check_time: datetime
) -> Row[Any]:
    """Insert a session. Return its epochs, whether its device is new, and when its identity was last revoked.

    The caller has locked the user, so that only one of two concurrent sign-ins finds a device new.
    """
    columns = rows.as_row(session, check_time)
    for name in _COMPUTED:
        del columns[name]
    compared = {parameter: columns[name] for name, parameter in _DEVICE.items()}
    values = {**columns, **compared, "of_user": session.user_id}
    inserting = _INSERT
    if session.subject_hash is not None:
        inserting = _INSERT_WITH_IDENTITY
        values["identity"] = [session.subject_hash, session.sid_hash]
    return (await connection.execute(inserting, values)).one()


def _is_new_device() -> ColumnElement[bool]:
    """Return the condition that none of the user's latest sessions has the device."""
    earlier = sessions.alias("earlier")
    conditions = []
    # One at a time, because each follows the index. A device that is in use is found in the first.
    for part in (earlier.c.end_time.is_(None), earlier.c.end_time.is_not(None)):
        latest = (
            select(*(earlier.c[name] for name in _DEVICE))
            .where(earlier.c.user_id == _USER, part)
            .order_by(earlier.c.end_time.desc(), earlier.c.expire_time.desc())
            .limit(DEVICES_COMPARED)
            .subquery()
        )
        same = (
            latest.c[name] == bindparam(parameter, type_=sessions.c[name].type)
            for name, parameter in _DEVICE.items()
        )
        conditions.append(~exists().where(*same))
    return and_(*conditions)


_INSERT = (
    insert(sessions)
    .values(
        user_epoch=select(users.c.epoch).where(users.c.user_id == _USER).scalar_subquery(),
        global_epoch=current_global_epoch,
        new_device=_is_new_device(),
    )
    .returning(*(sessions.c[name] for name in _COMPUTED))
)
_INSERT_WITH_IDENTITY = _INSERT.returning(identity_revoked_time.label("identity_revoked_time"))
