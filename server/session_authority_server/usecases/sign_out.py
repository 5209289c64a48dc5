from contextlib import suppress
from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import SUPERSEDED, judge
from session_authority_server.store.protocol import SessionStore, Transaction


class SignOut:
    """Ends the session of a token."""

    def __init__(self, store: SessionStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def __call__(self, session_token: str) -> datetime:
        """Return the moment after which no validator anywhere accepts the token.

        A token that is not good is signed out already. One that was superseded signs its session out all the
        same: whoever holds it was given it, and means this session.

        Raises:
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        token = tokens.parse(session_token)
        if token is not None:

            async def work(transaction: Transaction) -> None:
                session = await transaction.read_session(token.id)
                if session is not None:
                    # Also where there is nothing to end: a repetition must wait, as the first try did, until
                    # a standby has the ending, and only what is written waits.
                    await transaction.lock_user(session.user_id)
                    session = await transaction.read_session(token.id)
                    if session is None:
                        raise SessionNotLive  # erased meanwhile; the lock is to leave nothing of the user
                now = self._clock.now()
                if session is not None and _opens(token, session, now):
                    ending = Ending(now, EndReason.SIGNED_OUT, InitiatingEntity.USER)
                    await transaction.end_session(token.id, ending)

            with suppress(SessionNotLive):
                await self._store.transact(work)
        return self._policy.effective_time(self._clock.now())


def _opens(token: Token, session: Session, now: datetime) -> bool:
    """Say whether a token is, or was before a re-authentication, that of a live session."""
    verdict = judge(session, token, now)
    return isinstance(verdict, Session) or (verdict is SUPERSEDED and is_live(session, now))
