"""Sends the validations of the client for threads in batches."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from session_authority import _core
from session_authority._batching import (
    CALLS_LIMIT,
    WAITING_LIMIT,
    Exchange,
    Outcome,
    Question,
    Questions,
)
from session_authority._concurrency_sync import Background
from session_authority.errors import DeadlineExceeded, Unavailable
from session_authority.v1 import session_service_pb2 as v1

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Run: TypeAlias = Callable[[_core.Operation[Any]], Any]


class _Waiter:
    """A thread that waits for an answer. If `leads` is set, it must make the next call."""

    __slots__ = ("leads", "outcome", "woken")

    def __init__(self, leads: bool) -> None:
        self.leads = leads
        self.outcome: Outcome | None = None
        self.woken = threading.Event()


class Batcher:
    """Sends the validations of all threads. Those that wait at the same time share a call.

    A thread that waits for an answer makes the call itself: it leads. While all calls are in flight, validations wait.
    When a leader is done, it appoints a waiting thread as the next leader.
    """

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
        self._lock = threading.Lock()
        self._questions: Questions[_Waiter] = Questions()
        self._calls = 0
        self._reports: SimpleQueue[v1.ValidateSessionRequest | None] = SimpleQueue()
        self._reporter = Background(self._send_reports, "session-authority-report")

    def ask(self, message: v1.ValidateSessionRequest, span: "Span | None" = None) -> Outcome:
        """Validate one token. Wait for the answer, and return it.

        If the call fails or the deadline passes, return the error; do not raise it.
        """
        ends_at = time.monotonic() + self._deadline_seconds
        with self._lock:
            waiter = _Waiter(leads=self._calls < CALLS_LIMIT)
            self._calls += waiter.leads
            question = self._questions.join(message, waiter, span)
        try:
            while waiter.outcome is None:
                if waiter.leads:
                    self._lead(waiter)
                elif not waiter.woken.wait(max(ends_at - time.monotonic(), 0)):
                    break
        finally:
            self._leave(question, waiter)
        if waiter.outcome is None:
            return DeadlineExceeded("waiting for earlier calls")
        return waiter.outcome

    def report(self, message: v1.ValidateSessionRequest) -> None:
        """Tell the authority, in a background thread, that a session was used. Nothing waits for the answer.

        Drop the report if WAITING_LIMIT reports already wait.
        """
        if self._reports.qsize() < WAITING_LIMIT:
            self._reports.put(message)
            self._reporter.start()

    def close(self) -> None:
        """Send no more reports."""
        self._reports.put(None)
        self._reporter.stop()

    def _lead(self, leader: _Waiter) -> None:
        with self._lock:
            leader.leads = False
            leader.woken.clear()
            questions = self._questions.take()
        outcomes: Sequence[Outcome] = [Unavailable("interrupted")] * len(questions)
        try:
            if questions:
                outcomes = self._run(self._exchange(questions))
        except Exception as error:  # noqa: BLE001 - each caller raises it
            outcomes = [error] * len(questions)
        finally:
            with self._lock:
                for question, outcome in zip(questions, outcomes, strict=True):
                    for waiter in question.waiters:
                        waiter.outcome = outcome
                        waiter.woken.set()
                self._hand_over()

    def _leave(self, question: Question[_Waiter], waiter: _Waiter) -> None:
        with self._lock:
            if waiter.outcome is None:
                self._questions.leave(question, waiter)
            if waiter.leads:
                waiter.leads = False
                self._hand_over()

    def _hand_over(self) -> None:
        # The thread that joined last makes the next call, because it has the most time left until its deadline.
        waiter = self._questions.last_waiter()
        if waiter is None:
            self._calls -= 1
        else:
            waiter.leads = True
            waiter.woken.set()

    def _send_reports(self) -> None:
        while (message := self._reports.get()) is not None:
            questions: Questions[_Waiter] = Questions()
            while message is not None:
                questions.report(message)
                if len(questions) == _core.BATCH_LIMIT_REQUESTS:
                    break
                try:
                    message = self._reports.get_nowait()
                except Empty:
                    break
            if message is None:
                return
            with contextlib.suppress(Exception):  # the session's next use repeats the report
                self._run(self._exchange(questions.take()))
