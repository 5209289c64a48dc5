"""The queue of unary calls.

It limits how many calls run at once, runs validations in batches, and refuses calls that have waited too long.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import structlog

from session_authority_server.observability.metrics import (
    QUEUE_CALLS,
    QUEUE_REFUSALS,
    QUEUE_WAIT,
)
from session_authority_server.rpc.authentication import Caller
from session_authority_server.rpc.error_table import Answer
from session_authority_server.rpc.methods import Method
from session_authority_server.rpc.refused_calls import UNKNOWN_ORIGIN, Origin

RUNNING_LIMIT = 256
WAITING_LIMIT = 25_000
WAIT_SECONDS = 1.0
BATCH_LIMIT = 256
BATCHES_LIMIT = 4
# How long a batch runs before the next one may start beside it. Also the interval of checks for late calls.
TICK_SECONDS = 0.02
# The pause after a batch, in which its callers may send their next calls. On grpc.aio, a call costs so much that larger
# batches are worth the pause. On the native host, the pause costs more than it saves.
GRPCIO_BATCH_PAUSE_SECONDS = 0.001
# How many late calls are refused in one turn of the event loop. A refusal costs half as much as an answer. Refusing
# all late calls of a flood at once would leave no time for answers.
REFUSALS_AT_ONCE = 32
_LOG_SECONDS = 10.0

_log = structlog.get_logger("session_authority.rpc")


class Call:
    """A unary call that a host received.

    Attributes:
        method: The RPC.
        request: The parsed request.
        caller: The calling program.
        seconds_left: The seconds from the arrival to the caller's deadline; None for no deadline.
        origin: Where the call comes from, for the log.
        arrived: The time of arrival, from `time.perf_counter`.
        finished: Whether the call was answered or cancelled.
    """

    __slots__ = (
        "_reply",
        "arrived",
        "caller",
        "finished",
        "method",
        "origin",
        "request",
        "seconds_left",
        "task",
    )

    def __init__(
        self,
        method: Method,
        caller: Caller,
        seconds_left: float | None,
        reply: Callable[[bytes | Answer], object],
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> None:
        """Create a call. `reply` receives its answer, and is not called after `cancel`."""
        self.method = method
        self.caller = caller
        self.seconds_left = seconds_left
        self.origin = origin
        self.request: Any = None
        self.arrived = time.perf_counter()
        self.finished = False
        self.task: asyncio.Task[None] | None = None
        self._reply = reply

    def answer(self, answer: bytes | Answer) -> None:
        """Send the answer, unless the call is finished."""
        if not self.finished:
            self.finished = True
            self._reply(answer)

    def cancel(self) -> None:
        """Cancel the call, because its caller has gone or its deadline has passed."""
        self.finished = True
        if self.task is not None:
            self.task.cancel()


RunOne: TypeAlias = Callable[[Call], Awaitable[None]]
RunMany: TypeAlias = Callable[[Sequence[Call]], Awaitable[None]]
Refuse: TypeAlias = Callable[[Call], None]


class CallQueue:
    """Runs a bounded number of calls at once. Further calls wait.

    * The oldest call runs first. If the oldest validation has waited longer than `WAIT_SECONDS`, the newest
      validation runs first instead. New validations then don't wait until all late ones are refused.
    * A call is refused only if the queue is full, or if the call has waited longer than `WAIT_SECONDS`.
    * Validations that wait together run as one batch. New validations wait for the next batch.
    * If a batch takes longer than `TICK_SECONDS`, the next batch starts beside it. So a slow database connection
      delays few calls.

    Attributes:
        running: The number of running calls that are not validations.
    """

    def __init__(
        self,
        *,
        running_limit: int = RUNNING_LIMIT,
        waiting_limit: int = WAITING_LIMIT,
        batch_pause_seconds: float = 0.0,
    ) -> None:
        self.running = 0
        self._batch_pause_seconds = batch_pause_seconds
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._validations: deque[Call] = deque()
        self._others: deque[Call] = deque()
        self._batches = 0
        self._last_batch = float("-inf")
        self._pause_ends = float("-inf")
        self._expected = 0
        self._pumping = False
        self._ticking = False
        self._logged = float("-inf")

    def __len__(self) -> int:
        return len(self._validations) + len(self._others)

    def serve(self, run_one: RunOne, run_validations: RunMany, refuse: Refuse) -> None:
        """Set the functions that run and refuse calls. They must not raise."""
        self._run_one = run_one
        self._run_validations = run_validations
        self._refuse = refuse
        QUEUE_CALLS.set_function(self.__len__)

    def put(self, call: Call) -> None:
        """Run a call as soon as the limits permit, or refuse it."""
        if len(self._validations) + len(self._others) >= self._waiting_limit:
            self._log_and_refuse(call, "full")
            return
        (self._validations if call.method.batched else self._others).append(call)
        if not self._pumping:
            # Run it at the end of this turn of the event loop, together with all calls that arrive in this turn.
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        now = time.perf_counter()
        self._refuse_expired(self._validations, now)
        self._refuse_expired(self._others, now)
        while self._others and self.running < self._running_limit:
            call = self._others.popleft()
            if not call.finished:
                self.running += 1
                call.task = self._start(self._run_one(call), self._one_ended)
        while self._validations and self._may_start_batch(now):
            batch = self._take_batch()
            if batch:
                self._batches += 1
                self._last_batch = now
                self._start(self._run_validations(batch), partial(self._batch_ended, len(batch)))
        if (self._validations or self._others) and not self._ticking:
            self._ticking = True
            due = (
                TICK_SECONDS
                if self._batches or not self._validations
                else max(self._pause_ends - now, 0)
            )
            asyncio.get_running_loop().call_later(due, self._tick)

    def _may_start_batch(self, now: float) -> bool:
        if not self._batches:
            return now >= self._pause_ends or len(self._validations) >= self._expected
        return self._batches < BATCHES_LIMIT and now - self._last_batch >= TICK_SECONDS

    def _take_batch(self) -> list[Call]:
        batch: list[Call] = []
        waiting = self._validations
        # While late calls wait to be refused, run the newest first. New calls then don't wait for the rest of a flood.
        newest_first = time.perf_counter() - waiting[0].arrived > WAIT_SECONDS
        while waiting and len(batch) < BATCH_LIMIT:
            call = waiting.pop() if newest_first else waiting.popleft()
            if not call.finished:
                batch.append(call)
        return batch

    def _start(self, run: Any, ended: Callable[[], None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(run)
        task.add_done_callback(lambda _task: ended())
        return task

    def _one_ended(self) -> None:
        self.running -= 1
        if self._others:
            self._pump()

    def _batch_ended(self, calls: int) -> None:
        # Begin the pause after the answers are sent. If it began now, it could be over by then.
        asyncio.get_running_loop().call_soon(self._begin_pause, calls)

    def _begin_pause(self, calls: int) -> None:
        self._batches -= 1
        if calls > 1:
            self._expected = calls + len(self._validations)
            self._pause_ends = time.perf_counter() + self._batch_pause_seconds
        if self._validations:
            self._pump()

    def _tick(self) -> None:
        self._ticking = False
        self._pump()

    def _refuse_expired(self, waiting: deque[Call], now: float) -> None:
        """Refuse calls that have waited too long, and measure the wait of the oldest."""
        if waiting:
            QUEUE_WAIT.observe((), now - waiting[0].arrived)
        refused = 0
        while waiting and (waiting[0].finished or now - waiting[0].arrived > WAIT_SECONDS):
            if refused == REFUSALS_AT_ONCE:
                return
            call = waiting.popleft()
            if not call.finished:
                refused += 1
                self._log_and_refuse(call, "late")

    def _log_and_refuse(self, call: Call, reason: str) -> None:
        QUEUE_REFUSALS.inc(reason)
        now = time.perf_counter()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            _log.warning(
                "overloaded; refusing calls", running_calls=self.running, waiting_calls=len(self)
            )
        self._refuse(call)
