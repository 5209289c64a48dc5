import asyncio
from dataclasses import dataclass
from datetime import datetime

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.ports.store import (
    BATCH_LIMIT,
    PendingErasure,
    SessionStore,
    Transaction,
)
from session_authority_server.usecases.context import Context

# How long one call deletes rows. Well below the default deadline of callers.
BUDGET_SECONDS = 2.0
ERASURE_REASON = "The user was erased."


@dataclass(frozen=True, slots=True)
class Erasure:
    """The progress of an erasure.

    Attributes:
        effective_time: No validator accepts the user's sessions after this moment.
        complete: Whether everything is deleted. If not, the worker continues.
    """

    effective_time: datetime
    complete: bool


async def erase_user(
    context: Context, user_id: str, *, budget_seconds: float = BUDGET_SECONDS
) -> Erasure:
    """End all sessions of a user, then delete the user's data until the time budget is used up.

    Raises:
        InvalidRequest: If the user id breaks a limit.
        StoreUnavailable: If the store failed before the sessions were ended; a repetition is safe.
    """
    violations = checks.Violations()
    checks.check_user_id(user_id, violations)
    violations.raise_if_any()

    async def work(transaction: Transaction) -> PendingErasure:
        await transaction.lock_user(user_id)
        now = context.clock.now()
        sweep = Sweep(now, InitiatingEntity.ADMIN)
        await transaction.sweep_user(user_id, sweep)
        transaction.record(SessionsSwept(user_id, sweep, why=ERASURE_REASON))
        return await transaction.begin_erasure(user_id, now)

    erasure = await context.store.transact(work)
    effective_time = context.effective_time()
    return Erasure(effective_time, await _delete(context.store, erasure, budget_seconds))


async def _delete(store: SessionStore, erasure: PendingErasure, budget_seconds: float) -> bool:
    """Delete rows until the time budget is used up. Return whether none is left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + budget_seconds
    while loop.time() < deadline:
        try:
            batch = await store.erase_some(erasure, BATCH_LIMIT)
        except StoreUnavailable:
            return False  # The sessions have ended, and the worker deletes the rest.
        if batch.complete:
            return True
        if not batch.deleted:  # Another transaction has locked the remaining rows.
            await asyncio.sleep(0.05)
    return False
