from contextlib import suppress
from datetime import datetime
from uuid import UUID

from session_authority_server.domain import sign_in as checks
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import InvalidRequest, SessionNotFound, Violation
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import NOT_FOUND, judge
from session_authority_server.store.protocol import SessionStore, Transaction
from session_authority_server.usecases.audit import NOWHERE, Audit, Told, transact
from session_authority_server.usecases.revoke_session import parse_id


class RevokeOneSession:
    """Ends one session, for an operator who has its id or found its token."""

    def __init__(
        self, store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
    ) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._audit = audit

    async def by_id(self, session_id: str, reason: str = "") -> datetime:
        """Return the moment after which no validator anywhere accepts the session of an id.

        Whether there was anything to end is not told.

        Raises:
            InvalidRequest: If the id is malformed or the reason breaks a limit.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        _check_reason(reason)
        return await self._end(parse_id(session_id), None, reason)

    async def by_token(self, session_token: str, reason: str = "") -> datetime:
        """Return the moment after which no validator anywhere accepts the session of a token.

        That is the one that it opens, or opened before a re-authentication; a forged one ends nothing.

        Raises:
            InvalidRequest: If the token is malformed or the reason breaks a limit.
            StoreUnavailable: If the store failed; a repetition is safe.
        """
        _check_reason(reason)
        token = tokens.parse(session_token)
        if token is None:
            # Told, or whoever copied it badly would think that it can do no harm any more.
            problem = "is not a whole token; copy all of it, from ses_ to the end"
            raise InvalidRequest([Violation("session_token", problem)])
        return await self._end(token.id, token, reason)

    async def _end(self, session_id: UUID, proof: Token | None, reason: str) -> datetime:
        async def work(transaction: Transaction) -> Told[None]:
            session = await transaction.read_session(session_id)
            if session is None:
                raise SessionNotFound
            # Also where there is nothing to end: a repetition must wait, as the first try did, until a standby
            # has the ending, and only what is written waits.
            await transaction.lock_user(session.user_id)
            session = await transaction.read_session(session_id)
            if session is None:
                raise SessionNotFound  # erased meanwhile; the lock is to leave nothing of the user
            now = self._clock.now()
            if proof is not None and judge(session, proof, now) is NOT_FOUND:
                return None, ()
            if is_live(session, now):
                ending = Ending(now, EndReason.REVOKED, InitiatingEntity.ADMIN)
                if await transaction.end_session(session_id, ending):
                    return None, [SessionEnded(session_id, session.user_id, ending, reason)]
            return None, ()

        with suppress(SessionNotFound):
            await transact(self._store, self._audit, work)
        return self._policy.effective_time(self._clock.now())


def _check_reason(reason: str) -> None:
    violations = checks.Violations()
    checks.check_reason(reason, violations)
    violations.raise_if_any()
