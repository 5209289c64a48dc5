"""Lock a user, and the identity of a sign-in, in one statement."""

import hmac
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.store.database import RetryTransaction
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.identities import identity_revoked_time
from session_authority_server.store.tables import authority, erasures, users


async def lock_user(
    connection: AsyncConnection, dialect: Dialect, user_id: str, identity: Sequence[bytes]
) -> Sequence[Any]:
    """Lock a user's row, and the hashes of an identity. Add the row of a user who has none.

    Returns:
        The global epoch, and when the sessions of the user, of everybody and of the identity were last ended.

    Raises:
        RetryTransaction: If an erasure deleted the row meanwhile.
    """
    row = await _lock_row(connection, dialect, user_id, identity)
    if row is not None:
        return row
    absent = dialect.insert_if_absent(users).values(user_id=user_id, epoch=0)
    await connection.execute(absent)
    # Take the lock, so that no erasure can delete the new row.
    await _lock_row(connection, dialect, user_id, identity)
    await _continue_epoch_of_erased_user(connection, user_id)
    row = await _lock_row(connection, dialect, user_id, identity)
    if row is None:
        # Another transaction added the user first, and an erasure deleted the row again.
        raise RetryTransaction
    return row


async def _lock_row(
    connection: AsyncConnection, dialect: Dialect, user_id: str, identity: Sequence[bytes]
) -> Sequence[Any] | None:
    parameters: dict[str, object] = {"user_id": user_id}
    statement = _LOCK_USER
    if identity:
        statement = _locking(identity_revoked_time, *dialect.identity_locks(identity))
        parameters["identity"] = identity
    row = (await connection.execute(statement, parameters)).one_or_none()
    return None if row is None else row[:4]


async def _continue_epoch_of_erased_user(connection: AsyncConnection, user_id: str) -> None:
    """Copy the epoch and the time of an erasure of this user id, if there was one, to the new user's row."""
    user_hash = await hashed_user(connection, user_id)
    await connection.execute(
        update(users)
        .where(
            users.c.user_id == user_id,
            erasures.c.user_hash == user_hash,
            erasures.c.epoch > users.c.epoch,
        )
        .values(epoch=erasures.c.epoch, swept_time=erasures.c.erase_time)
    )


async def hashed_user(connection: AsyncConnection, user_id: str) -> bytes:
    """Return the keyed hash that replaces the id of an erased user."""
    key = (await connection.execute(select(authority.c.erasure_key))).scalar_one()
    return hmac.digest(key, user_id.encode(), "sha256")


def _locking(revoked_time: ColumnElement[Any], *locks: ColumnElement[Any]) -> Select[Any]:
    return (
        select(
            select(authority.c.epoch).scalar_subquery(),
            users.c.swept_time,
            select(authority.c.swept_time).scalar_subquery(),
            revoked_time,
            *locks,
        )
        .where(users.c.user_id == bindparam("user_id"))
        .with_for_update(key_share=True, of=users)
    )


# Built once, because building it takes half as long as running it.
_LOCK_USER = _locking(null())
