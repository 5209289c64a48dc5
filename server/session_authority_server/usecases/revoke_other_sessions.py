from datetime import datetime

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact
from session_authority_server.usecases.proof import check_standing, parse_proof, prove_in
from session_authority_server.usecases.superseded import SupersededTokens


class RevokeOtherSessions:
    """Ends all of a user's sessions but the one that asks."""

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

    async def __call__(self, session_token: str) -> datetime:
        """Return the moment after which no validator anywhere accepts any of them.

        Raises:
            SessionNotLive: If the token is not good.
            ImpersonationForbidden: If the session is that of somebody who acts as the user.
            ReauthenticationRequired: If the proof of identity is too old.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        token = parse_proof(session_token)

        async def work(transaction: Transaction) -> Told[None]:
            proven = await prove_in(transaction, token, self._clock.now)
            check_standing(proven, self._policy, self._clock.now())
            sweep = Sweep(self._clock.now(), InitiatingEntity.USER)
            await transaction.sweep_user(proven.user_id, sweep)
            await transaction.exempt_from_sweep(proven.session_id)
            return None, [SessionsSwept(proven.user_id, sweep, kept=proven.session_id)]

        async with self._superseded.noticed():
            await transact(self._store, self._audit, work)
        return self._policy.effective_time(self._clock.now())
