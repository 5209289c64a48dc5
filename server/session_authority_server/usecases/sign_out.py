from contextlib import suppress
from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import CredentialRejected, SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import (
    NOT_FOUND,
    SUPERSEDED,
    Rejection,
    judge,
    rejected_credential,
)
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact


class SignOut:
    """Ends the session of a token."""

    def __init__(
        self, store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit

    async def __call__(self, session_token: str) -> datetime:
        """Return the moment after which no validator anywhere accepts the token.

        A token that is not good is signed out already. One that was superseded signs its session out all the
        same: whoever holds it was given it, and means this session.

        Raises:
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        token = tokens.parse(session_token)
        if token is not None:

            async def work(transaction: Transaction) -> Told[CredentialRejected | None]:
                session = await transaction.read_session(token.id)
                # A secret that is wrong has no business here: to wait for the user would tell that the id exists.
                if (
                    session is not None
                    and judge(session, token, self._clock.now()) is not NOT_FOUND
                ):
                    # Also where there is nothing to end: a repetition must wait, as the first try did, until
                    # a standby has the ending, and only what is written waits.
                    await transaction.lock_user(session.user_id)
                    session = await transaction.read_session(token.id)
                    if session is None:
                        raise SessionNotLive  # erased meanwhile; the lock is to leave nothing of the user
                now = self._clock.now()
                verdict = judge(session, token, now)
                if session is not None and _opens(verdict, session, now):
                    ending = Ending(now, EndReason.SIGNED_OUT, InitiatingEntity.USER)
                    if await transaction.end_session(token.id, ending):
                        return None, [SessionEnded(token.id, session.user_id, ending)]
                return rejected_credential(session, token, verdict, now), ()

            with suppress(SessionNotLive):
                rejected = await transact(self._store, self._audit, work)
                if rejected is not None:
                    self._audit.record(rejected)
        return self._policy.effective_time(self._clock.now())


def _opens(verdict: Session | Rejection, session: Session, now: datetime) -> bool:
    """Say whether a token is, or was before a re-authentication, that of a live session."""
    return isinstance(verdict, Session) or (verdict is SUPERSEDED and is_live(session, now))
