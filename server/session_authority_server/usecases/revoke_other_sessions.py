from datetime import datetime

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.proof import parse_proof, prove_in


class RevokeOtherSessions:
    """Ends all of a user's sessions but the one that asks."""

    def __init__(self, store: SessionStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def __call__(self, session_token: str) -> datetime:
        """Return the moment after which no validator anywhere accepts any of them.

        Raises:
            SessionNotLive: If the token is not good.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        token = parse_proof(session_token)

        async def work(transaction: Transaction) -> None:
            proven = await prove_in(transaction, token, self._clock.now)
            sweep = Sweep(self._clock.now(), InitiatingEntity.USER)
            await transaction.sweep_user(proven.user_id, sweep)
            await transaction.exempt_from_sweep(proven.session_id)

        await self._store.transact(work)
        return self._policy.effective_time(self._clock.now())
