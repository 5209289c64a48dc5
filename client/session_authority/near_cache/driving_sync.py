"""The near cache of the client for threads: one follows the stream, one reports use, and those that ask carry."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

import grpc

from session_authority import _core
from session_authority._error_details import error_of
from session_authority.errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    SessionAuthorityError,
    Unavailable,
)
from session_authority.near_cache import watching
from session_authority.near_cache.clock import lease_clock
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.operations import ask
from session_authority.near_cache.questions import (
    CALLS_LIMIT,
    REPORTS_LIMIT,
    Outcome,
    Question,
    Questions,
    decoded,
    may_be_batched,
    own_copy,
)
from session_authority.near_cache.settings import NearCache
from session_authority.session import Rejection, Session, ValidationRequest
from session_authority.v1 import session_service_pb2 as v1

_STOP_SECONDS = 1.0
_Result = TypeVar("_Result")


class Stream(Protocol):
    """A stream of gRPC's."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> bool: ...


class Client(Protocol):
    """What the near cache needs of its client."""

    @property
    def deadline_seconds(self) -> float:
        """How long an answer may take."""

    def failed(self, error: SessionAuthorityError) -> None:
        """Log that the stream can't be followed."""

    def run(self, operation: _core.Operation[_Result]) -> _Result:
        """Make the calls of an operation."""

    def watch(self, pings: Iterator[bytes]) -> Stream:
        """Open the stream."""


class Driver:
    """Moves what the core needs, in one process."""

    def __init__(
        self,
        settings: NearCache,
        client: Client,
        *,
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        self.core = NearCacheCore(settings, decoded, self._report)
        self.lookup = self.core.lookup
        self.now = clock
        self._client = client
        self._asker = _Asker(self.core, client, clock)
        self._reports: SimpleQueue[Due | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._call: Stream | None = None

    def validate(self, request: ValidationRequest) -> Session | Rejection:
        """Ask the authority, together with others who ask at this moment, and keep the answer."""
        self.follow()
        message = _core.validation(request)
        if not message.session_token or not may_be_batched(message):
            return self._client.run(_core.validate(request))
        outcome = self._asker.ask(message)
        if isinstance(outcome, InvalidArgument):
            # Somebody's in the batch, perhaps not this one's.
            return self._client.run(_core.validate(request))
        if isinstance(outcome, Exception):
            raise own_copy(outcome)
        return outcome

    def follow(self) -> None:
        """Make sure that the stream is followed."""
        if self._threads:
            return
        with self._starting:
            if not self._threads and not self._stopped.is_set():
                self._threads = [
                    threading.Thread(target=each, name=f"session-authority-{name}", daemon=True)
                    for name, each in (("watch", self._follow), ("report", self._send_reports))
                ]
                for thread in self._threads:
                    thread.start()

    def stop(self) -> None:
        """Stop following the stream, and forget everything."""
        self._stopped.set()
        self.core.stream_opened()
        self._reports.put(None)
        call = self._call
        if call is not None:
            call.cancel()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_STOP_SECONDS)

    def _follow(self) -> None:
        backoff = watching.Backoff()
        while not self._stopped.is_set():
            generation = self.core.stream_opened()
            error = self._stream(generation, backoff)
            if not self.core.stream_lost(generation, str(error)) or isinstance(error, ClientClosed):
                return
            self._client.failed(error)
            self._stopped.wait(backoff.next_seconds(error, watching.chance()))

    def _stream(self, generation: int, backoff: watching.Backoff) -> SessionAuthorityError:
        """Follow one stream, and say what it ended with."""
        try:
            ended = threading.Event()
            self._call = call = self._client.watch(self._pings(generation, ended))
        except ClientClosed as error:
            return error
        try:
            for payload in call:
                watching.apply(self.core, generation, payload)
                backoff.succeeded()
        except grpc.RpcError as error:
            return error_of(error)
        except Exception as error:  # noqa: BLE001 - no fault of one stream ends the following
            return watching.fault_of(error)
        finally:
            ended.set()
            call.cancel()
        return Unavailable("the stream ended")

    def _pings(self, generation: int, ended: threading.Event) -> Iterator[bytes]:
        # gRPC asks for them in a thread of its own.
        while not self.core.is_stale(generation, now := self.now()):
            ping_id = self.core.ping_sent(generation, now)
            if ping_id is None:
                break
            yield watching.ping(ping_id)
            if ended.wait(self.core.pause_seconds(watching.chance())):
                return
        call = self._call
        if call is not None and not ended.is_set():
            call.cancel()

    def _report(self, due: Due) -> None:
        if self._reports.qsize() < REPORTS_LIMIT:
            self._reports.put(due)

    def _send_reports(self) -> None:
        while (due := self._reports.get()) is not None:
            questions: Questions[None] = Questions()
            while due is not None:
                questions.report(due)
                if len(questions) == _core.BATCH_LIMIT_REQUESTS:
                    break
                try:
                    due = self._reports.get_nowait()
                except Empty:
                    break
            if due is None or self._stopped.is_set():
                return
            with contextlib.suppress(Exception):  # the next use repeats it
                self._client.run(ask(self.core, self.now, questions.take()))


class _Waiter:
    """Somebody who waits for an answer, and may be told to make the next call meanwhile."""

    __slots__ = ("leads", "outcome", "woken")

    def __init__(self, leads: bool) -> None:
        self.leads = leads
        self.outcome: Outcome | None = None
        self.woken = threading.Event()


class _Asker:
    """Asks the questions of all threads.

    Each call is made by a thread that waits for an answer itself. What comes while as many are in flight as may
    be is left to the thread that one of them appoints when it is done.
    """

    def __init__(self, core: NearCacheCore, client: Client, clock: Callable[[], float]) -> None:
        self._core = core
        self._client = client
        self._now = clock
        self._lock = threading.Lock()
        self._questions: Questions[_Waiter] = Questions()
        self._calls = 0

    def ask(self, message: v1.ValidateSessionRequest) -> Outcome:
        """Give the outcome of a question."""
        ends_at = time.monotonic() + self._client.deadline_seconds
        with self._lock:
            waiter = _Waiter(leads=self._calls < CALLS_LIMIT)
            self._calls += waiter.leads
            question = self._questions.join(message, waiter)
        try:
            while waiter.outcome is None:
                if waiter.leads:
                    self._lead(waiter)
                elif not waiter.woken.wait(max(ends_at - time.monotonic(), 0)):
                    break
        finally:
            self._leave(question, waiter)
        if waiter.outcome is None:
            return DeadlineExceeded("waiting for calls before it")
        return waiter.outcome

    def _lead(self, leader: _Waiter) -> None:
        with self._lock:
            leader.leads = False
            leader.woken.clear()
            questions = self._questions.take()
        outcomes: Sequence[Outcome] = [Unavailable("interrupted")] * len(questions)
        try:
            if questions:
                outcomes = self._client.run(ask(self._core, self._now, questions))
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
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
        # To the one that has waited least, who has the most time left.
        waiter = self._questions.last_waiter()
        if waiter is None:
            self._calls -= 1
        else:
            waiter.leads = True
            waiter.woken.set()
