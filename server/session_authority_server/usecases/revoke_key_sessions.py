import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.store.protocol import BATCH_LIMIT, KeyBatch, SessionStore
from session_authority_server.usecases.audit import NOWHERE, Audit

# How long one call goes on: well below the deadline that callers have by default.
BUDGET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """How far a call got.

    Attributes:
        effective_time: After this moment no validator anywhere accepts what was ended.
        resume_time: Since when sessions are yet to be looked at; None where all were.
    """

    effective_time: datetime
    resume_time: datetime | None


class RevokeKeySessions:
    """Ends the sessions that one API key made, for an operator whose key was stolen.

    Ids carry the time at which they were made, so that only those since a moment are looked at.
    """

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

    async def __call__(
        self, key_id: str, since: datetime | None = None, reason: str = ""
    ) -> KeyRevocation:
        """End those made since a moment, for as long as a call may take.

        Raises:
            InvalidRequest: If a field breaks a limit.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        violations = checks.Violations()
        checks.check_user_id(key_id, violations, "created_by_key")
        checks.check_reason(reason, violations)
        violations.raise_if_any()

        def tell(batch: KeyBatch) -> None:
            self._audit.record(*(replace(each, why=reason) for each in batch.ended))

        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._budget_seconds
        after: UUID | None = tokens.first_id(since) if since is not None else UUID(int=0)
        while after is not None:
            now = self._clock.now()
            ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
            batch = await self._store.end_made_by(key_id, now, after, BATCH_LIMIT, ending, tell)
            after = batch.last
            if loop.time() >= give_up:
                break
        effective_time = self._policy.effective_time(self._clock.now())
        # A moment, and no id: it tells nothing of whose session was looked at last.
        resume_time = None if after is None else tokens.time_of(after)
        return KeyRevocation(effective_time, resume_time)
