import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from session_authority_server.domain.session import Session
from session_authority_server.store.protocol import BATCH_LIMIT

# Why a breath, and of this length: docs/performance.md.
BREATH_SECONDS = 0.003
STALLED_SECONDS = 0.020
READS_IN_FLIGHT_LIMIT = 4

ReadMany = Callable[[Sequence[UUID]], Awaitable[dict[UUID, Session]]]


class CoalescedReads:
    """Answers many single reads with few statements.

    A read joins only a statement that has not been sent, and so sees every commit answered before it. While
    reads come one at a time, each is sent at once. After a statement that served several, the next waits
    for a breath, in which the callers just answered come back and new ones gather, or until as many have as were
    there. One statement is in flight at a time, unless it has stalled: then others pass it by.
    """

    def __init__(self, read_many: ReadMany) -> None:
        self._read_many = read_many
        self._waiting: list[tuple[UUID, asyncio.Future[Session | None]]] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._last_sent = 0.0
        self._breath_ends = 0.0
        self._expected = 0

    async def read(self, session_id: UUID) -> Session | None:
        """Return a session as of a moment after this call, or None.

        Raises:
            StoreUnavailable: If the store can't be read.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Session | None] = loop.create_future()
        self._waiting.append((session_id, future))
        if self._timer is None:
            self._schedule(loop)
        elif not self._in_flight and len(self._waiting) >= self._expected:
            self._timer.cancel()
            self._timer = None
            self._send(loop)
        return await future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what waits, now or at the first moment that allows it."""
        now = loop.time()
        if not self._in_flight:
            due = self._breath_ends
        elif len(self._in_flight) < READS_IN_FLIGHT_LIMIT:
            due = self._last_sent + STALLED_SECONDS
        else:
            return  # the end of a read in flight schedules anew
        if due <= now:
            self._send(loop)
        else:
            self._timer = loop.call_at(due, self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting:
            self._schedule(loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:BATCH_LIMIT], self._waiting[BATCH_LIMIT:]
        self._last_sent = loop.time()
        task = loop.create_task(self._answer(batch))
        self._in_flight.add(task)
        task.add_done_callback(self._finished)
        if self._waiting:
            self._schedule(loop)  # what exceeds a batch passes this one too, if it stalls

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._schedule(task.get_loop())

    async def _answer(self, batch: list[tuple[UUID, "asyncio.Future[Session | None]"]]) -> None:
        wanted = [session_id for session_id, future in batch if not future.done()]
        try:
            found = await self._read_many(wanted) if wanted else {}
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is to have it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for session_id, future in batch:
                if not future.done():
                    future.set_result(found.get(session_id))
        if len(batch) > 1:
            self._expected = len(batch) + len(self._waiting)
            # The callers go first: a breath that began before them would be over once they are answered.
            await asyncio.sleep(0)
            self._breath_ends = asyncio.get_running_loop().time() + BREATH_SECONDS
