from collections.abc import Iterator
from contextlib import contextmanager
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
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import SUPERSEDED, judge, rejected_credential
from session_authority_server.ports import Transaction
from session_authority_server.usecases.context import Context


def parse_proof(session_token: str) -> Token:
    """Return the token that proves whose request this is.

    Raises:
        SessionNotLive: If the text is not a token.
    """
    token = tokens.parse(session_token)
    if token is None:
        raise SessionNotLive
    return token


async def prove(context: Context, token: Token, now: datetime) -> Session:
    """Return the live session of a token.

    Raises:
        SessionNotLive: If the token is not good.
        StoreUnavailable: If the store can't be read.
    """
    found = await context.store.read_sessions([token.id])
    return _accept(found.get(token.id), token, now)


async def prove_in(transaction: Transaction, token: Token, clock: Clock) -> Session:
    """Lock the user of a token. Return its live session, as it is under the lock.

    Raises:
        SessionNotLive: If the token is not good.
        StoreUnavailable: If the store can't be read.
    """
    session = await read_proven(transaction, token, clock)
    await transaction.lock_user(session.user_id)
    # The session may have ended while this waited for the lock.
    return await read_proven(transaction, token, clock)


async def read_proven(transaction: Transaction, token: Token, clock: Clock) -> Session:
    """Return the live session of a token, without a lock.

    Raises:
        SessionNotLive: If the token is not good.
        StoreUnavailable: If the store can't be read.
    """
    return _accept(await transaction.read_session(token.id), token, clock.now())


@contextmanager
def reporting_failed_proof(context: Context) -> Iterator[None]:
    """Record a failed proof in the audit log, and act on the use of a superseded token.

    Apart from the transaction, which a failed proof rolls back.
    """
    try:
        yield
    except SessionNotLive as error:
        if error.rejected is not None:
            context.audit.record(error.rejected)
        if error.superseded is not None:
            context.superseded.used(error.superseded)
        raise


def check_standing(proven: Session, policy: Policy, now: datetime) -> None:
    """Check that a proven session may list and end its user's sessions.

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
