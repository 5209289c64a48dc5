from collections.abc import Callable
from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import (
    ImpersonationForbidden,
    ReauthenticationRequired,
    SessionNotLive,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import SUPERSEDED, judge, rejected_credential
from session_authority_server.store.protocol import SessionStore, Transaction


def parse_proof(session_token: str) -> Token:
    """Return the token that is to prove whose request this is.

    Raises:
        SessionNotLive: If it is no token.
    """
    token = tokens.parse(session_token)
    if token is None:
        raise SessionNotLive
    return token


async def prove(store: SessionStore, token: Token, now: datetime) -> Session:
    """Return the live session of a token.

    Raises:
        SessionNotLive: If the token is not good.
        StoreUnavailable: If the store can't be read.
    """
    found = await store.read_sessions([token.id])
    return _accept(found.get(token.id), token, now)


async def prove_in(transaction: Transaction, token: Token, now: Callable[[], datetime]) -> Session:
    """Return the live session of a token, with its user locked until the transaction ends.

    Raises:
        SessionNotLive: If the token is not good.
        StoreUnavailable: If the store can't be read.
    """
    session = _accept(await transaction.read_session(token.id), token, now())
    await transaction.lock_user(session.user_id)
    # Read and judged again, for it may have ended while the lock was waited for.
    return _accept(await transaction.read_session(token.id), token, now())


def check_standing(proven: Session, policy: Policy, now: datetime) -> None:
    """Require that whoever proved a session may look at its user's sessions and end them.

    Raises:
        ImpersonationForbidden: If somebody else acts as the user.
        ReauthenticationRequired: If the proof of identity is older than the policy allows.
    """
    if proven.actor_id is not None:
        raise ImpersonationForbidden
    max_age = policy.max_authentication_age
    if max_age is not None and now - proven.authenticate_time > max_age:
        raise ReauthenticationRequired(max_age)


def _accept(session: Session | None, token: Token, now: datetime) -> Session:
    verdict = judge(session, token, now)
    if isinstance(verdict, Session):
        return verdict
    raise SessionNotLive(
        rejected=rejected_credential(session, token, verdict, now),
        superseded=session if verdict is SUPERSEDED else None,
    )
