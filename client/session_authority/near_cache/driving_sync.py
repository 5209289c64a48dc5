"""The near cache of the client for threads: one follows the stream, one reports use, and those that ask carry."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

import grpc

from session_authority import _core
from session_authority._batching import WAITING_LIMIT, Questions
from session_authority._batching_sync import Batcher
from session_authority._error_details import error_of
from session_authority.errors import (
    ClientClosed,
    SessionAuthorityError,
    Unavailable,
)
from session_authority.near_cache import watching
from session_authority.near_cache.clock import lease_clock
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.operations import ask, report_of
from session_authority.near_cache.questions import decoded
from session_authority.near_cache.settings import NearCache
from session_authority.session import Rejection, Session, ValidationRequest

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
        self._batcher = Batcher(client.run, partial(ask, self.core, clock), client.deadline_seconds)
        self._reports: SimpleQueue[Due | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._call: Stream | None = None

    def validate(self, request: ValidationRequest) -> Session | Rejection:
        """Ask the authority, together with others who ask at this moment, and keep the answer."""
        self.follow()
        return self._batcher.validate(request)

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
        if self._reports.qsize() < WAITING_LIMIT:
            self._reports.put(due)

    def _send_reports(self) -> None:
        while (due := self._reports.get()) is not None:
            questions: Questions[None] = Questions()
            while due is not None:
                questions.report(report_of(due))
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
