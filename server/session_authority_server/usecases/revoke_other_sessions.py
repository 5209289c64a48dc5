from datetime import datetime

from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.ports import Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.session_proof import (
    check_standing,
    prove_in,
    reporting_failed_proof,
    require_proof,
)


async def revoke_other_sessions(context: Context, session_token: str) -> datetime:
    """End all of a user's sessions except the one that asks. Return the moment after which none is accepted.

    Raises:
        SessionNotLive: If the token is not good.
        ImpersonationForbidden: If the session is that of somebody who acts as the user.
        ReauthenticationRequired: If the proof of identity is too old.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = require_proof(session_token)

    async def work(transaction: Transaction) -> None:
        proven = await prove_in(transaction, proof, context.clock)
        check_standing(proven, context.policy, context.clock.now())
        sweep = Sweep(context.clock.now(), InitiatingEntity.USER)
        await transaction.sweep_user(proven.user_id, sweep)
        await transaction.exempt_from_sweep(proven.session_id)
        transaction.record(SessionsSwept(proven.user_id, sweep, kept=proven.session_id))

    with reporting_failed_proof(context):
        await context.store.transact(work)
    return context.effective_time()
