from datetime import datetime

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact


class RevokeUserSessions:
    """Ends all sessions of a user, for an operator."""

    def __init__(
        self, store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit

    async def __call__(self, user_id: str, reason: str = "") -> datetime:
        """Return the moment after which no validator anywhere accepts any of them.

        A user of whom nothing is known may be signing in for the first time: that sign-in is covered too.

        Raises:
            InvalidRequest: If a field breaks a limit.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        violations = checks.Violations()
        checks.check_user_id(user_id, violations)
        checks.check_reason(reason, violations)
        violations.raise_if_any()

        async def work(transaction: Transaction) -> Told[None]:
            await transaction.lock_user(user_id)
            sweep = Sweep(self._clock.now(), InitiatingEntity.ADMIN, reason)
            await transaction.sweep_user(user_id, sweep)
            return None, [SessionsSwept(user_id, sweep, why=reason)]

        await transact(self._store, self._audit, work)
        return self._policy.effective_time(self._clock.now())
