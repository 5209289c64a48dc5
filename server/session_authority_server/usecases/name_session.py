from dataclasses import dataclass, replace

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.errors import SessionNotFound
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import Transaction
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.revoke_session import parse_id
from session_authority_server.usecases.session_proof import (
    check_may_manage,
    prove_and_lock,
    require_proof,
)


@dataclass(frozen=True, slots=True)
class NamedSession:
    """A session with its new name, and whether the token of the request belongs to it."""

    session: Session
    current: bool


async def name_session(
    context: Context, session_token: str, session_id: str, label: str
) -> NamedSession:
    """Store the user's own name of one of the user's live sessions. An empty name removes the present one.

    Raises:
        SessionNotLive: If the token is invalid.
        ImpersonationForbidden: If another person acts as the user.
        ReauthenticationRequired: If the proof of identity is too old.
        InvalidRequest: If the id is malformed or the name breaks a limit.
        SessionNotFound: If the user has no live session with this id.
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    proof = require_proof(session_token)
    target_id = parse_id(session_id)
    violations = checks.Violations()
    name = checks.check_label(label, violations)
    violations.raise_if_any()

    async def work(transaction: Transaction) -> NamedSession:
        proven = await prove_and_lock(transaction, proof, context.clock)
        check_may_manage(proven, context.policy, context.clock.now())
        # Read with the user's id, so that another user's session takes as long as an unknown one.
        target = await transaction.read_session(target_id, of_user=proven.user_id)
        if target is None or not await transaction.name_session(
            target_id, name, context.clock.now()
        ):
            raise SessionNotFound
        return NamedSession(replace(target, label=name), target_id == proven.session_id)

    with context.reporting_failed_proof():
        return await context.store.transact(work)
