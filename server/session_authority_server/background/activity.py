import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import kept_address
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import SessionStore, Touch, TouchesSkipped

FLUSH_INTERVAL = timedelta(seconds=2)
FLUSH_BATCH = 500
PENDING_LIMIT = 100_000
# An activity this close to the end of the idle timeout is written at once. A flush could come too late: the store may
# take 2 s to connect and 2 s to write, and may fail once.
DECISIVE = timedelta(seconds=15)

_log = logging.getLogger(__name__)


class Activity:
    """Records when sessions are used: gathers activities in memory and writes them every few seconds.

    Each session is written at most once in a resolution window. A crash loses the gathered activities. An activity is
    decisive if its session could idle out before a flush records the activity. A decisive activity is written before
    the call is answered.
    """

    def __init__(self, store: SessionStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._pending: dict[UUID, Touch] = {}
        self._decisive: dict[UUID, Touch] = {}
        self._current_write: asyncio.Future[None] | None = None
        self._next_write: asyncio.Future[None] | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._pending)

    async def record(self, session: Session, now: datetime, ip_address: str | None) -> None:
        """Record that a live session was used.

        Raises:
            StoreUnavailable: If a decisive activity can't be written.
        """
        decisive = self.gather(session, now, ip_address)
        if decisive is not None:
            await self.write([decisive])

    def gather(self, session: Session, now: datetime, ip_address: str | None) -> Touch | None:
        """Record that a live session was used. Return the activity if it must be written before the answer."""
        if self.is_fresh(session, now):
            return None
        ip_address = kept_address(ip_address, self._policy.keep_ip_addresses)
        earlier = self._pending.get(session.session_id)
        if ip_address is None and earlier is not None:
            ip_address = earlier.ip_address
        touch = Touch(session.session_id, now, ip_address)
        if self._is_decisive(session, now):
            return touch
        if earlier is not None or len(self._pending) < PENDING_LIMIT:
            self._pending[session.session_id] = touch
        else:
            self.dropped += 1
        return None

    async def write(self, decisive: Sequence[Touch]) -> None:
        """Write decisive activities, together with those of other waiting calls.

        Raises:
            StoreUnavailable: If they can't be written.
        """
        for touch in decisive:
            self._decisive[touch.session_id] = touch
        if self._next_write is None:
            self._next_write = asyncio.ensure_future(self._write_next(self._current_write))
            # Retrieve the exception here too. If every waiting call is cancelled, asyncio would log it as never
            # retrieved.
            self._next_write.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(self._next_write)
        except TouchesSkipped as error:
            left = {touch.session_id for touch in error.skipped}
            if any(touch.session_id in left for touch in decisive):
                raise StoreUnavailable("writing") from error

    async def _write_next(self, before: "asyncio.Future[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        self._current_write, self._next_write = self._next_write, None
        batch, self._decisive = list(self._decisive.values()), {}
        left: list[Touch] = []
        for start in range(0, len(batch), FLUSH_BATCH):
            try:
                await self._store.touch(batch[start : start + FLUSH_BATCH], self._clock.now)
            except TouchesSkipped as error:
                left += error.skipped
        if left:
            raise TouchesSkipped(left)

    def is_fresh(self, session: Session, now: datetime) -> bool:
        """Return whether the recorded activity of a session is recent enough."""
        resolution = self._policy.resolution_for(session.idle_timeout)
        return now - session.last_active_time < resolution

    async def flush(self) -> None:
        """Write the gathered activities. Those that can't be written stay for the next flush.

        Raises:
            StoreUnavailable: If a write fails.
        """
        while self._pending:
            batch = list(islice(self._pending.values(), FLUSH_BATCH))
            try:
                await self._store.touch(batch, self._clock.now)
            except TouchesSkipped as error:
                self._forget(touch for touch in batch if touch not in error.skipped)
                raise StoreUnavailable("writing") from error
            self._forget(batch)

    async def run(self) -> None:
        """Flush every few seconds until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
            try:
                await self.flush()
            except StoreUnavailable:
                _log.warning("activity of %d sessions waits to be written", len(self))
            except Exception:  # noqa: BLE001 - the loop never stops
                _log.exception("activity of %d sessions could not be written", len(self))

    def _is_decisive(self, session: Session, now: datetime) -> bool:
        idle_expire_time = session.idle_expire_time
        return idle_expire_time is not None and idle_expire_time - now < DECISIVE

    def _forget(self, written: Iterable[Touch]) -> None:
        for touch in written:
            if self._pending.get(touch.session_id) is touch:
                del self._pending[touch.session_id]
