from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.errors import InvalidRequest, SessionNotFound, Violation
from session_authority_server.domain.event import SessionEnded, SessionsSwept
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses, erased
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.session_proof import (
    check_may_manage,
    prove_and_lock,
    require_proof,
)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The result of a revocation.

    Attributes:
        session: The session as it is now.
        current: Whether the token of the request belongs to it.
        already_ended: Whether it had ended before the call.
        effective_time: No validator accepts the session after this moment.
    """

    session: Session
    current: bool
    already_ended: bool
    effective_time: datetime


async def revoke_session(context: Context, session_token: str, session_id: str) -> Revocation:
    """End one of a user's own sessions.

    Raises:
        SessionNotLive: If the token is invalid.
        ImpersonationForbidden: If another person acts as the user.
        ReauthenticationRequired: If the proof of identity is too old.
        InvalidRequest: If the id is malformed.
        SessionNotFound: If the user has no such session.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = require_proof(session_token)
    target_id = parse_id(session_id)

    async def work(transaction: Transaction) -> tuple[Session, bool, bool]:
        proven = await prove_and_lock(transaction, proof, context.clock)
        check_may_manage(proven, context.policy, context.clock.now())
        # Read with the user's id, so that another user's session takes as long as an unknown one.
        target = await transaction.read_session(target_id, of_user=proven.user_id)
        if target is None:
            raise SessionNotFound
        now = context.clock.now()
        current = target.session_id == proven.session_id
        ending = ending_of(target, now)
        already_ended = ending is not None
        transaction.confirm_end()
        if ending is None:
            reason = EndReason.SIGNED_OUT if current else EndReason.REVOKED
            ending = Ending(now, reason, InitiatingEntity.USER)
            if await transaction.end_session(target_id, ending):
                target = _ended(target, ending, context.policy)
                transaction.record(SessionEnded(target_id, target.user_id, ending))
            else:  # another transaction has ended it meanwhile
                target = await transaction.read_session(target_id) or target
                already_ended = True
        return target, current, already_ended

    with context.reporting_failed_proof():
        session, current, already_ended = await context.store.transact(work)
    return Revocation(session, current, already_ended, context.effective_time())


def _ended(session: Session, ending: Ending, policy: Policy) -> Session:
    ended = replace(session, ending=ending)
    return erased(ended) if policy.erase_addresses is EraseAddresses.AT_END else ended


def parse_id(session_id: str) -> UUID:
    """Parse the session id in a request.

    Raises:
        InvalidRequest: If the id is malformed.
    """
    try:
        parsed = UUID(session_id)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != session_id.lower():
        problem = (
            "is not a session id; give the session_id of one of the listed sessions, "
            "a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057"
        )
        raise InvalidRequest([Violation("session_id", problem)])
    return parsed


async def revoke_other_sessions(context: Context, session_token: str) -> datetime:
    """End all of a user's sessions except the token's own. Return the moment after which none is accepted.

    Raises:
        SessionNotLive: If the token is invalid.
        ImpersonationForbidden: If another person acts as the user.
        ReauthenticationRequired: If the proof of identity is too old.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = require_proof(session_token)

    async def work(transaction: Transaction) -> None:
        proven = await prove_and_lock(transaction, proof, context.clock)
        check_may_manage(proven, context.policy, context.clock.now())
        sweep = Sweep(context.clock.now(), InitiatingEntity.USER)
        await transaction.sweep_user(proven.user_id, sweep)
        await transaction.exempt_from_sweep(proven.session_id)
        transaction.record(SessionsSwept(proven.user_id, sweep, kept=proven.session_id))

    with context.reporting_failed_proof():
        await context.store.transact(work)
    return context.effective_time()
