from datetime import datetime

from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import judge
from session_authority_server.store.protocol import SessionStore, Transaction


class SignOut:
    """Ends the session of a token."""

    def __init__(self, store: SessionStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def __call__(self, session_token: str) -> datetime:
        """Return the moment after which no validator anywhere accepts the token.

        A token that is not good is signed out already.

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
                now = self._clock.now()
                if isinstance(judge(session, token, now), Session):
                    ending = Ending(now, EndReason.SIGNED_OUT, InitiatingEntity.USER)
                    await transaction.end_session(token.id, ending)

            await self._store.transact(work)
        return self._policy.effective_time(self._clock.now())
