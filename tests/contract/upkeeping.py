"""Upkeep calls of a worker at one fixed time."""

from datetime import datetime
from uuid import UUID

from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import Transaction
from session_authority_server.ports.upkeep import PendingSweep, SweepBatch
from tests.support.engines import (
    MINUTE,
    SECOND,
    START,
    Engine,
)

NOW = START + 60 * MINUTE
INSTANT = SECOND / 1_000_000
ADMIN, USER, POLICY = InitiatingEntity.ADMIN, InitiatingEntity.USER, InitiatingEntity.POLICY


async def recorded(engine: Engine, session: Session) -> Ending | None:
    """Return the ending that has been recorded."""
    return (await engine.get(session.session_id)).ending


async def ending(engine: Engine, session: Session, now: datetime = NOW) -> Ending | None:
    """Return the ending that readers see at a time."""
    return ending_of(await engine.get(session.session_id), now)


async def end(engine: Engine, session: Session, time: datetime) -> None:
    async def work(transaction: Transaction) -> None:
        recorded = Ending(time, EndReason.SIGNED_OUT, USER)
        await transaction.end_session(session.session_id, recorded)

    await engine.sessions.transact(work)


async def settle(
    engine: Engine, sweep: PendingSweep, now: datetime, limit: int
) -> list[SweepBatch]:
    batches: list[SweepBatch] = []
    after: UUID | None = None
    while True:
        batch = await engine.upkeep.end_swept(sweep, now, after, limit)
        batches.append(batch)
        after = batch.last
        if after is None:
            return batches
