import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive, StoreUnavailable
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.payload import SupersededTokenUsed
from session_authority_server.domain.policy import Policy, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import SessionStore, Transaction

OnSuperseded = Callable[[Session], None]

# The most sessions that wait to be ended. A further session is ended at a later use of its superseded token.
ENDINGS_LIMIT = 1_000
# The most endings that are written at the same time. Each takes a connection; the others stay free for calls.
ENDINGS_AT_ONCE = 2
# How many times the server tries to end a session, and the pause after a failure.
ENDING_TRIES = 30
ENDING_PAUSE_SECONDS = 1.0
# The most sessions that a process remembers as reported. The use of a forgotten one is reported again.
REPORTED_LIMIT = 10_000
# How long a shutdown waits for the endings.
SETTLE_SECONDS = 10.0

_log = logging.getLogger(__name__)


class SupersededTokens:
    """Acts on the use of a token that a re-authentication superseded.

    The token may be stolen, so the policy can end the session, and receivers can get an event. Within the policy's
    grace period the token is only rejected, because the user's own browser may send it before the new token arrives.

    All this happens in the background, so that a slow store or the wait for a lock does not delay the answer. Each
    process reports one use of each superseded token.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        on_used: OnSuperseded,
        reports: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set up the reaction to superseded tokens.

        Args:
            store: The store of the sessions.
            clock: The clock.
            policy: Decides whether a use ends the session.
            on_used: Receives the session at each use. It must not raise or take long.
            reports: Whether a receiver wants to know.
        """
        self._store = store
        self._clock = clock
        self._policy = policy
        self._on_used = on_used
        self._reports = reports
        # The reported sessions, with the times of their tokens. The latest report comes last.
        self._reported: dict[UUID, datetime] = {}
        self._endings: dict[UUID, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(ENDINGS_AT_ONCE)

    def used(self, session: Session) -> None:
        """Report the use of a superseded token, and end its session if the policy requires it."""
        self._on_used(session)
        session_id = session.session_id
        if not self._should_act(session) or session_id in self._endings:
            return
        if len(self._endings) >= ENDINGS_LIMIT:
            _log.error("too many sessions wait to be ended for a superseded token; skipped one")
            return
        self._endings[session_id] = ending = asyncio.create_task(self._end_with_retries(session))
        ending.add_done_callback(lambda _done: self._endings.pop(session_id))

    async def settle(self) -> None:
        """Wait until the pending endings are written, for SETTLE_SECONDS at most."""
        if not self._endings:
            return
        late = (await asyncio.wait(self._endings.values(), timeout=SETTLE_SECONDS))[1]
        for ending in late:
            ending.cancel()
        if late:
            _log.error("%d sessions could not be ended for a superseded token", len(late))

    async def _end_with_retries(self, session: Session) -> None:
        for _ in range(ENDING_TRIES):
            try:
                async with self._turns:
                    with suppress(SessionNotLive):
                        await self._store.transact(partial(self._act, session))
                        self._note_report(session)
            except StoreUnavailable:
                await asyncio.sleep(ENDING_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - no caller waits for it
                _log.exception("a session could not be ended for a superseded token")
                return
            else:
                return
        _log.error("a session could not be ended for a superseded token; its next use tries again")

    def _should_act(self, session: Session) -> bool:
        if not self._is_suspicious(session):
            return False
        if self._policy.superseded_use is SupersededUse.END_SESSION:
            return True
        return self._reports() and self._reported.get(session.session_id) != session.renewed_time

    def _is_suspicious(self, session: Session) -> bool:
        now = self._clock.now()
        return now >= session.renewed_time + self._policy.superseded_grace and is_live(session, now)

    def _note_report(self, session: Session) -> None:
        self._reported.pop(session.session_id, None)
        if len(self._reported) >= REPORTED_LIMIT:
            del self._reported[next(iter(self._reported))]
        self._reported[session.session_id] = session.renewed_time

    async def _act(self, session: Session, transaction: Transaction) -> None:
        await transaction.lock_user(session.user_id)
        current = await transaction.read_session(session.session_id)
        if current is None:
            # The user was erased meanwhile. The rollback removes the row that `lock_user` may have added.
            raise SessionNotLive
        if not self._is_suspicious(current):
            return
        transaction.report(SupersededTokenUsed(current, self._clock.now()))
        if self._policy.superseded_use is SupersededUse.END_SESSION:
            ending = Ending(self._clock.now(), EndReason.REVOKED, InitiatingEntity.POLICY)
            if await transaction.end_session(session.session_id, ending):
                transaction.record(SessionEnded(session.session_id, session.user_id, ending))
