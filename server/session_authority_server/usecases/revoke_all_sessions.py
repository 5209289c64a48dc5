from datetime import datetime

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact


class RevokeAllSessions:
    """Ends all sessions of everybody, for an operator."""

    def __init__(
        self, store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit

    async def __call__(self, reason: str = "") -> datetime:
        """Return the moment after which no validator anywhere accepts any of them.

        Raises:
            InvalidRequest: If the reason breaks a limit.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        violations = checks.Violations()
        checks.check_reason(reason, violations)
        violations.raise_if_any()

        async def work(transaction: Transaction) -> Told[None]:
            sweep = Sweep(self._clock.now(), InitiatingEntity.ADMIN, reason)
            await transaction.sweep_everybody(sweep)
            return None, [SessionsSwept("", sweep, why=reason)]

        await transact(self._store, self._audit, work)
        return self._policy.effective_time(self._clock.now())
