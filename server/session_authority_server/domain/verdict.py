from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from session_authority_server.domain.event import CredentialFault, CredentialRejected
from session_authority_server.domain.liveness import ending_of, is_live
from session_authority_server.domain.session import EndReason, Session
from session_authority_server.domain.token import Proof, is_superseded


class RejectionReason(Enum):
    """Why a token is invalid."""

    NOT_FOUND = "not_found"
    SIGNED_OUT = "signed_out"
    REVOKED = "revoked"
    EXPIRED = "expired"
    IDLE_TIMEOUT = "idle_timeout"
    LIMIT = "limit"
    SUPERSEDED = "superseded"
    USER_MISMATCH = "user_mismatch"


@dataclass(frozen=True, slots=True)
class Rejection:
    """The answer that a token is invalid."""

    reason: RejectionReason


NOT_FOUND = Rejection(RejectionReason.NOT_FOUND)
# Equal to NOT_FOUND, so callers get the same answer. A separate object shows that the store was not read.
MALFORMED = Rejection(RejectionReason.NOT_FOUND)
SUPERSEDED = Rejection(RejectionReason.SUPERSEDED)
USER_MISMATCH = Rejection(RejectionReason.USER_MISMATCH)
_ENDED = {reason: Rejection(RejectionReason[reason.name]) for reason in EndReason}


def judge(
    session: Session | None, proof: Proof, now: datetime, user_id: str = ""
) -> Session | Rejection:
    """Return the session if a presented token is valid for it, or else the rejection.

    Args:
        session: The stored session with the id in the proof; None if there is none.
        proof: The proof that the presented token gives.
        now: The present time.
        user_id: The required user of the session; empty for any user.
    """
    if session is None:
        return NOT_FOUND
    if not proof.matches(session.secret_hash):
        superseded = is_superseded(proof.secret_hash, session.superseded_hashes)
        return SUPERSEDED if superseded else NOT_FOUND
    if not is_live(session, now):
        ending = ending_of(session, now)
        assert ending is not None
        return _ENDED[ending.reason]
    if user_id and user_id != session.user_id:
        return USER_MISMATCH
    return session


def rejected_credential(
    session: Session | None, proof: Proof, verdict: Session | Rejection, now: datetime
) -> CredentialRejected | None:
    """Return the event to record for a token whose secret is not the session's; None for other verdicts.

    A wrong secret and an unknown session both give an event, so that they take the same time.
    """
    if verdict is SUPERSEDED:
        fault = CredentialFault.SUPERSEDED
    elif verdict is NOT_FOUND:
        fault = CredentialFault.UNKNOWN if session is None else CredentialFault.FORGED
    else:
        return None
    return CredentialRejected(proof.id, session.user_id if session else "", fault, now)
