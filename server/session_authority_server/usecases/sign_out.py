from contextlib import suppress
from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import (
    NOT_FOUND,
    SUPERSEDED,
    Rejection,
    judge,
    rejected_credential,
)
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.context import Context


async def sign_out(context: Context, session_token: str) -> datetime:
    """End the session of a token. Return the moment after which no validator accepts the token.

    An invalid token is already signed out, so the call succeeds. A superseded token also ends its session: only the
    session's own device received it.

    Raises:
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = tokens.parse_proof(session_token)
    if proof is None:
        return context.effective_time()

    async def work(transaction: Transaction) -> None:
        session = await transaction.read_session(proof.id)
        # With a wrong secret, never wait for the lock. The wait would reveal that the id exists.
        if session is not None and judge(session, proof, context.clock.now()) is not NOT_FOUND:
            # Lock even if the session has ended. The lock is a write, and only a write waits for a standby. A
            # repeated call must wait too, until the standby has the ending.
            await transaction.lock_user(session.user_id)
            transaction.confirm_end()
            session = await transaction.read_session(proof.id)
            if session is None:
                # The user was erased meanwhile. The rollback removes the row that `lock_user` may have added.
                raise SessionNotLive
        now = context.clock.now()
        verdict = judge(session, proof, now)
        if session is not None and _may_sign_out(verdict, session, now):
            ending = Ending(now, EndReason.SIGNED_OUT, InitiatingEntity.USER)
            if await transaction.end_session(proof.id, ending):
                transaction.record(SessionEnded(proof.id, session.user_id, ending))
                return
        rejected = rejected_credential(session, proof, verdict, now)
        if rejected is not None:
            transaction.record(rejected)

    with suppress(SessionNotLive):
        await context.store.transact(work)
    return context.effective_time()


def _may_sign_out(verdict: Session | Rejection, session: Session, now: datetime) -> bool:
    """Return whether a current or superseded token belongs to a live session."""
    return isinstance(verdict, Session) or (verdict is SUPERSEDED and is_live(session, now))
