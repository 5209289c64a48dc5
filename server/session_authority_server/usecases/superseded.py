import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import SessionNotLive, StoreUnavailable
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.store.protocol import SessionStore, Transaction

OnSuperseded = Callable[[Session], None]

# How many sessions may wait to be ended; a further one has to wait for the next use of its token.
ENDINGS_LIMIT = 1_000
# How many of them are written at once, which leaves connections for calls.
ENDINGS_AT_ONCE = 2
# How often an ending is tried, and how long after one that failed.
ENDING_TRIES = 30
ENDING_PAUSE_SECONDS = 1.0
# How long an orderly stop waits for them.
SETTLE_SECONDS = 10.0

_log = logging.getLogger(__name__)


class SupersededTokens:
    """What is done when a token is used that was superseded by a re-authentication.

    Whoever uses one may have stolen it. Or it is the user's own browser, which sent it before the new one came:
    so soon, nothing is done but to reject it.

    A session that is to end is ended beside the answer, which the store's slowness, or somebody's lock on the
    user, neither delays nor spoils.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        policy: Policy,
        told: OnSuperseded,
    ) -> None:
        """Act by a policy.

        Args:
            store: Where sessions are kept.
            clock: Tells the time.
            policy: Says what to do.
            told: Told of each use, with the session as it stands; must not fail or take long.
        """
        self._store = store
        self._clock = clock
        self._policy = policy
        self._told = told
        self._endings: dict[UUID, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(ENDINGS_AT_ONCE)

    def used(self, session: Session) -> None:
        """Note that a superseded token of a session was used, and see to its end if the policy says so."""
        self._told(session)
        session_id = session.session_id
        if not self._is_to_end(session) or session_id in self._endings:
            return
        if len(self._endings) >= ENDINGS_LIMIT:
            _log.error("too many sessions wait to be ended for a superseded token; left out one")
            return
        self._endings[session_id] = ending = asyncio.create_task(self._see_to_end(session))
        ending.add_done_callback(lambda _done: self._endings.pop(session_id))

    async def settle(self) -> None:
        """Wait for the sessions that are to end, but not for longer than SETTLE_SECONDS."""
        if not self._endings:
            return
        late = (await asyncio.wait(self._endings.values(), timeout=SETTLE_SECONDS))[1]
        for ending in late:
            ending.cancel()
        if late:
            _log.error("%d sessions could not be ended for a superseded token", len(late))

    async def _see_to_end(self, session: Session) -> None:
        for _ in range(ENDING_TRIES):
            try:
                async with self._turns:
                    with suppress(SessionNotLive):
                        await self._store.transact(partial(self._end, session))
            except StoreUnavailable:
                await asyncio.sleep(ENDING_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - nobody waits for it
                _log.exception("a session could not be ended for a superseded token")
                return
            else:
                return
        _log.error("a session could not be ended for a superseded token; its next use tries again")

    def _is_to_end(self, session: Session) -> bool:
        now = self._clock.now()
        return (
            self._policy.superseded_use is SupersededUse.END_SESSION
            and now >= session.renewed_time + self._policy.superseded_grace
            and is_live(session, now)
        )

    async def _end(self, session: Session, transaction: Transaction) -> None:
        await transaction.lock_user(session.user_id)
        current = await transaction.read_session(session.session_id)
        if current is None:
            raise SessionNotLive  # erased meanwhile; nothing of the user is to be left by the lock
        if self._is_to_end(current):
            ending = Ending(self._clock.now(), EndReason.REVOKED, InitiatingEntity.POLICY)
            if await transaction.end_session(session.session_id, ending):
                transaction.record(SessionEnded(session.session_id, session.user_id, ending))
