from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact

OnSuperseded = Callable[[Session], None]


class SupersededTokens:
    """What is done when a token is used that was superseded by a re-authentication.

    Whoever uses one may have stolen it. Or it is the user's own browser, which sent it before the new one came:
    so soon, nothing is done but to reject it.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        told: OnSuperseded,
        audit: Audit = NOWHERE,
    ) -> None:
        """Act by a policy.

        Args:
            store: Where sessions are kept.
            clock: Tells the time.
            policy: Says what to do.
            told: Told of each use, with the session as it stands; must not fail or take long.
            audit: Told of the sessions that are ended.
        """
        self._store = store
        self._clock = clock
        self._policy = policy
        self._told = told
        self._audit = audit

    async def used(self, session: Session) -> None:
        """Note that a superseded token of a session was used, and end the session if the policy says so.

        Raises:
            StoreUnavailable: If the session was to be ended and could not be.
        """
        self._told(session)
        if not self._is_to_end(session):
            return
        with suppress(SessionNotLive):
            await transact(
                self._store, self._audit, lambda transaction: self._end(transaction, session)
            )

    @asynccontextmanager
    async def noticed(self) -> AsyncIterator[None]:
        """Note what is found out within: that the token which was to prove something was superseded."""
        try:
            yield
        except SessionNotLive as error:
            if error.superseded is not None:
                await self.used(error.superseded)
            raise

    def _is_to_end(self, session: Session) -> bool:
        now = self._clock.now()
        return (
            self._policy.superseded_use is SupersededUse.END_SESSION
            and now >= session.renewed_time + self._policy.superseded_grace
            and is_live(session, now)
        )

    async def _end(self, transaction: Transaction, session: Session) -> Told[None]:
        await transaction.lock_user(session.user_id)
        current = await transaction.read_session(session.session_id)
        if current is None:
            raise SessionNotLive  # erased meanwhile; nothing of the user is to be left by the lock
        if self._is_to_end(current):
            ending = Ending(self._clock.now(), EndReason.REVOKED, InitiatingEntity.POLICY)
            if await transaction.end_session(session.session_id, ending):
                return None, [SessionEnded(session.session_id, session.user_id, ending)]
        return None, ()
