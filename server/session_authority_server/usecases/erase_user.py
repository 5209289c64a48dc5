import asyncio
from dataclasses import dataclass
from datetime import datetime

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.event import SessionsSwept
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import InitiatingEntity, Sweep
from session_authority_server.store.protocol import (
    BATCH_LIMIT,
    PendingErasure,
    SessionStore,
    Transaction,
)
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact

# How long one call goes on deleting: well below the deadline that callers have by default.
BUDGET_SECONDS = 2.0
# What the audit log tells of it.
_WHY = "The user was erased."


@dataclass(frozen=True, slots=True)
class Erasure:
    """How far an erasure got.

    Attributes:
        effective_time: After this moment no validator anywhere accepts a session that the user had.
        complete: Whether every trace is deleted; where not, the worker goes on.
    """

    effective_time: datetime
    complete: bool


class EraseUser:
    """Ends all sessions of a user, at once, and then deletes whatever there is of the user."""

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        audit: Audit = NOWHERE,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit
        self._budget_seconds = budget_seconds

    async def __call__(self, user_id: str) -> Erasure:
        """Erase a user, for as long as a call may take.

        Raises:
            InvalidRequest: If the user id breaks a limit.
            StoreUnavailable: If the store failed before the sessions were ended; a repetition is safe.
        """
        violations = checks.Violations()
        checks.check_user_id(user_id, violations)
        violations.raise_if_any()

        async def work(transaction: Transaction) -> Told[PendingErasure]:
            await transaction.lock_user(user_id)
            now = self._clock.now()
            sweep = Sweep(now, InitiatingEntity.ADMIN)
            await transaction.sweep_user(user_id, sweep)
            erasure = await transaction.begin_erasure(user_id, now)
            return erasure, [SessionsSwept(user_id, sweep, why=_WHY)]

        erasure = await transact(self._store, self._audit, work)
        effective_time = self._policy.effective_time(self._clock.now())
        return Erasure(effective_time, await self._delete(erasure))

    async def _delete(self, erasure: PendingErasure) -> bool:
        """Delete what there is time for, and return whether that was all."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._budget_seconds
        while loop.time() < give_up:
            try:
                batch = await self._store.erase_some(erasure, BATCH_LIMIT)
            except StoreUnavailable:
                return False  # what was promised holds already, and the worker deletes the rest
            if batch.complete:
                return True
            if not batch.deleted:  # others are at it, or have it locked
                await asyncio.sleep(0.05)
        return False
