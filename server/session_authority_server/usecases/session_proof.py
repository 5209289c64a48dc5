from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import (
    ImpersonationForbidden,
    ReauthenticationRequired,
    SessionNotLive,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Proof
from session_authority_server.domain.verdict import SUPERSEDED, judge, rejected_credential
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.context import Context


def require_proof(session_token: str) -> Proof:
    """Return the proof in a session token.

    Raises:
        SessionNotLive: If the text is not a token.
    """
    proof = tokens.parse_proof(session_token)
    if proof is None:
        raise SessionNotLive
    return proof


async def prove(context: Context, proof: Proof, now: datetime) -> Session:
    """Return the live session of a token.

    Reads the store without a transaction and without a lock. Inside a transaction, use the other two functions.

    Raises:
        SessionNotLive: If the token is invalid.
        StoreUnavailable: If the store can't be read.
    """
    found = await context.store.read_sessions([proof.id])
    return _accept(found.get(proof.id), proof, now)


async def prove_and_lock(transaction: Transaction, proof: Proof, clock: Clock) -> Session:
    """Lock the user of a token. Return the token's live session, read under the lock.

    Raises:
        SessionNotLive: If the token is invalid.
        StoreUnavailable: If the store can't be read.
    """
    session = await prove_without_lock(transaction, proof, clock)
    await transaction.lock_user(session.user_id)
    # The session may have ended while this call waited for the lock, so read the session again.
    return await prove_without_lock(transaction, proof, clock)


async def prove_without_lock(transaction: Transaction, proof: Proof, clock: Clock) -> Session:
    """Return the live session of a token without locking its user.

    Raises:
        SessionNotLive: If the token is invalid.
        StoreUnavailable: If the store can't be read.
    """
    return _accept(await transaction.read_session(proof.id), proof, clock.now())


def check_may_manage(proven: Session, policy: Policy, now: datetime) -> None:
    """Check that a session may list and revoke its user's sessions.

    Raises:
        ImpersonationForbidden: If another person acts as the user.
        ReauthenticationRequired: If the proof of identity is older than the policy allows.
    """
    if proven.actor_id is not None:
        raise ImpersonationForbidden
    max_age = policy.max_authentication_age
    if max_age is not None and now - proven.authenticate_time > max_age:
        raise ReauthenticationRequired(max_age)


def _accept(session: Session | None, proof: Proof, now: datetime) -> Session:
    verdict = judge(session, proof, now)
    if isinstance(verdict, Session):
        return verdict
    raise SessionNotLive(
        rejected=rejected_credential(session, proof, verdict, now),
        superseded=session if verdict is SUPERSEDED else None,
    )
