"""Sends the validations of the asyncio client in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from session_authority import _core
from session_authority._batching import (
    CALLS_LIMIT,
    Exchange,
    Outcome,
    Question,
    Questions,
)
from session_authority.errors import DeadlineExceeded
from session_authority.v1 import session_service_pb2 as v1

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_Waiter: TypeAlias = "asyncio.Future[Outcome]"
Run: TypeAlias = Callable[[_core.Operation[Any]], Awaitable[Any]]


class Batcher:
    """Sends the validations of one event loop. Those that wait at the same time share a call."""

    def __init__(self, run: Run, exchange: Exchange[_Waiter], deadline_seconds: float) -> None:
        """Create a batcher.

        Args:
            run: Runs an operation and makes its calls.
            exchange: Creates the operation that sends several validations in one call.
            deadline_seconds: How long `ask` waits.
        """
        self._run = run
        self._exchange = exchange
        self._deadline_seconds = deadline_seconds
        self._questions: Questions[_Waiter] = Questions()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def ask(self, message: v1.ValidateSessionRequest, span: "Span | None" = None) -> Outcome:
        """Validate one token. Wait for the answer, and return it.

        If the call fails or the deadline passes, return the error; do not raise it.
        """
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        question = self._questions.join(message, waiter, span)
        self._pump()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await waiter
        except TimeoutError:
            return DeadlineExceeded("waiting for earlier calls")
        finally:
            if not waiter.done() or waiter.cancelled():
                self._questions.leave(question, waiter)

    def report(self, message: v1.ValidateSessionRequest) -> None:
        """Tell the authority, with the next call, that a session was used. Nothing waits for the answer.

        Drop the report if WAITING_LIMIT questions already wait.
        """
        self._questions.report(message)
        self._pump()

    def close(self) -> None:
        """Do nothing: reports need no task of their own."""

    def _pump(self) -> None:
        # Do not send at once. `call_soon` runs `_send` after the callbacks that are ready now. All validations that
        # they add then share one call.
        if not self._scheduled and len(self._calls) < CALLS_LIMIT and self._questions:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        while len(self._calls) < CALLS_LIMIT and self._questions:
            free = CALLS_LIMIT - len(self._calls)
            call = asyncio.create_task(self._call(self._questions.take(free)))
            self._calls.add(call)
            call.add_done_callback(self._called)

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._pump()

    async def _call(self, questions: Sequence[Question[_Waiter]]) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._run(self._exchange(questions))
        except Exception as error:  # noqa: BLE001 - each caller raises it
            outcomes = [error] * len(questions)
        for question, outcome in zip(questions, outcomes, strict=True):
            for waiter in question.waiters:
                if not waiter.done():  # it may have been cancelled
                    waiter.set_result(outcome)
