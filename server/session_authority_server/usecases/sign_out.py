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
from session_authority_server.ports import Transaction
from session_authority_server.usecases.context import Context


async def sign_out(context: Context, session_token: str) -> datetime:
    """End the session of a token. Return the moment after which no validator accepts the token.

    A token that is not good is signed out already. A superseded token signs its session out all the same:
    its holder was given it, and means this session.

    Raises:
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = tokens.parse_proof(session_token)
    if proof is None:
        return context.effective_time()

    async def work(transaction: Transaction) -> None:
        session = await transaction.read_session(proof.id)
        # With a wrong secret the call must not wait for the user: the wait would reveal that the id exists.
        if session is not None and judge(session, proof, context.clock.now()) is not NOT_FOUND:
            # Also where there is nothing to end. A repetition must wait, as the first call did, until a standby
            # has the ending, and only a write waits.
            await transaction.lock_user(session.user_id)
            session = await transaction.read_session(proof.id)
            if session is None:
                raise SessionNotLive  # Erased meanwhile. The lock must leave nothing of the user.
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
    """Say whether a token is, or was before a re-authentication, that of a live session."""
    return isinstance(verdict, Session) or (verdict is SUPERSEDED and is_live(session, now))
