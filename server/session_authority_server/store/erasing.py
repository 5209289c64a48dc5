"""The steps of an erasure: delete the user's sessions in batches, then everything else of the user."""

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.ports.store import PendingErasure
from session_authority_server.store.tables import erasures, sessions, sweeps, users


async def delete_sessions(connection: AsyncConnection, erasure: PendingErasure, limit: int) -> int:
    """Delete at most `limit` of the sessions that an erasure covers, and return how many."""
    # Locked sessions are skipped and left for the next step. Waiting for their locks could deadlock, because other
    # transactions lock sessions in another order.
    some = (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == erasure.user_id, sessions.c.user_epoch < erasure.epoch)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(sessions).where(sessions.c.session_id.in_(some))
    return (await connection.execute(statement)).rowcount


async def finish(connection: AsyncConnection, erasure: PendingErasure) -> bool:
    """Delete everything else of the user if no session is left. Return whether no erasure of the user is pending."""
    user_id, epoch = erasure.user_id, erasure.epoch
    # A separate statement takes the lock, so that the next ones see what the previous holder committed.
    locking = select(users.c.epoch).where(users.c.user_id == user_id).with_for_update()
    await connection.execute(locking)
    left = exists().where(sessions.c.user_id == user_id, sessions.c.user_epoch < epoch)
    # The row of an erasure contains the user id until the erasure is complete.
    this_erasure = (erasures.c.user_id == user_id, erasures.c.epoch == epoch)
    pending = select(func.count()).select_from(erasures).where(*this_erasure, ~left)
    if not (await connection.execute(pending)).scalar_one():
        others = select(func.count()).select_from(erasures).where(erasures.c.user_id == user_id)
        return not (await connection.execute(others)).scalar_one()
    await connection.execute(
        delete(sweeps).where(sweeps.c.user_id == user_id, sweeps.c.epoch <= epoch)
    )
    # Keep the row of a user who has signed in again. If the row is deleted, copy its epoch and time to the erasure,
    # because a later sweep may have raised them. The erasure then blocks the same sign-ins as the row did.
    has_signed_in = exists().where(sessions.c.user_id == user_id)
    deleting = delete(users).where(users.c.user_id == user_id, ~has_signed_in)
    last = (
        await connection.execute(deleting.returning(users.c.epoch, users.c.swept_time))
    ).one_or_none()
    if last is not None:
        await connection.execute(delete(sweeps).where(sweeps.c.user_id == user_id))
    kept = {"epoch": last.epoch, "erase_time": last.swept_time} if last is not None else {}
    await connection.execute(update(erasures).where(*this_erasure).values(user_id=None, **kept))
    return True
