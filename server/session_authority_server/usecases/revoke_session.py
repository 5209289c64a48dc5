from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import InvalidRequest, SessionNotFound, Violation
from session_authority_server.domain.event import Event, SessionEnded
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses, erased
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact
from session_authority_server.usecases.proof import check_standing, parse_proof, prove_in
from session_authority_server.usecases.superseded import SupersededTokens


@dataclass(frozen=True, slots=True)
class Revocation:
    """A session that is ended.

    Attributes:
        session: The session as it is now.
        current: Whether it is the one whose token asked.
        already_ended: Whether it had ended before.
        effective_time: After this moment no validator anywhere accepts it.
    """

    session: Session
    current: bool
    already_ended: bool
    effective_time: datetime


class RevokeSession:
    """Ends one of a user's own sessions."""

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        superseded: SupersededTokens,
        audit: Audit = NOWHERE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._superseded = superseded
        self._audit = audit

    async def __call__(self, session_token: str, session_id: str) -> Revocation:
        """Return the session, ended.

        Raises:
            SessionNotLive: If the token is not good.
            ImpersonationForbidden: If the session is that of somebody who acts as the user.
            ReauthenticationRequired: If the proof of identity is too old.
            InvalidRequest: If the id is malformed.
            SessionNotFound: If the user has no such session.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        token = parse_proof(session_token)
        target_id = parse_id(session_id)

        async def work(transaction: Transaction) -> Told[tuple[Session, bool, bool]]:
            proven = await prove_in(transaction, token, self._clock.now)
            check_standing(proven, self._policy, self._clock.now())
            # Asked for with the user, so that a foreign session costs what an unknown one does.
            target = await transaction.read_session(target_id, of_user=proven.user_id)
            if target is None:
                raise SessionNotFound
            now = self._clock.now()
            current = target.session_id == proven.session_id
            ending = ending_of(target, now)
            events: list[Event] = []
            already_ended = ending is not None
            if ending is None:
                reason = EndReason.SIGNED_OUT if current else EndReason.REVOKED
                ending = Ending(now, reason, InitiatingEntity.USER)
                if await transaction.end_session(target_id, ending):
                    target = self._ended(target, ending)
                    events.append(SessionEnded(target_id, target.user_id, ending))
                else:  # signed out, or found overdue, while this was asked
                    target = await transaction.read_session(target_id) or target
                    already_ended = True
            return (target, current, already_ended), events

        async with self._superseded.noticed():
            session, current, already_ended = await transact(self._store, self._audit, work)
        effective_time = self._policy.effective_time(self._clock.now())
        return Revocation(session, current, already_ended, effective_time)

    def _ended(self, session: Session, ending: Ending) -> Session:
        ended = replace(session, ending=ending)
        return erased(ended) if self._policy.erase_addresses is EraseAddresses.AT_END else ended


def parse_id(session_id: str) -> UUID:
    """Return the id that a caller gave.

    Raises:
        InvalidRequest: If it is none.
    """
    try:
        parsed = UUID(session_id)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != session_id.lower():
        raise InvalidRequest(
            [
                Violation(
                    "session_id",
                    "is not a session id; give the session_id of one of the listed sessions, "
                    "a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057",
                )
            ]
        )
    return parsed
