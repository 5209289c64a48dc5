"""Record which identities were revoked, so that sign-ins that began before are refused."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, case, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import TOLERATED_SKEW
from session_authority_server.domain.identity import IdentityKey
from session_authority_server.store.engine.dialect import Dialect
from session_authority_server.store.tables import revoked_identities

# When one of the identities whose hashes are the parameter `identity` was last revoked.
identity_revoked_time = (
    select(func.max(revoked_identities.c.revoke_time))
    .where(revoked_identities.c.identity_hash.in_(bindparam("identity", expanding=True)))
    .scalar_subquery()
)


async def revoke_identity(
    connection: AsyncConnection, dialect: Dialect, key: IdentityKey, time: datetime
) -> None:
    """Record that an identity was revoked, once no sign-in with it is in progress."""
    await dialect.lock_identity(connection, key.digest)
    recorded = revoked_identities.c.revoke_time
    # The clocks of servers differ, and an earlier time would accept older sign-ins.
    later = case((recorded > time, recorded), else_=literal(time, recorded.type))
    updating = (
        update(revoked_identities)
        .where(revoked_identities.c.identity_hash == key.digest)
        .values(revoke_time=later)
    )
    if (await connection.execute(updating)).rowcount == 0:
        row = {"identity_hash": key.digest, "revoke_time": time}
        await connection.execute(insert(revoked_identities), row)


async def correct_revoked_time(
    connection: AsyncConnection, identity: Sequence[IdentityKey], now: datetime
) -> None:
    """Set the times to `now` if they are over TOLERATED_SKEW later."""
    await connection.execute(
        update(revoked_identities)
        .where(
            revoked_identities.c.identity_hash.in_([key.digest for key in identity]),
            revoked_identities.c.revoke_time > now + TOLERATED_SKEW,
        )
        .values(revoke_time=now)
    )
