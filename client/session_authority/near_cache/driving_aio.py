"""The near cache of the client for asyncio: a task follows the stream, and others carry what is asked."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

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
from session_authority.near_cache.lease import STALE_AFTER_SECONDS
from session_authority.near_cache.operations import ask
from session_authority.near_cache.questions import (
    CALLS_LIMIT,
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

_Result = TypeVar("_Result")
_Waiter = asyncio.Future[Outcome]


class Client(Protocol):
    """What the near cache needs of its client."""

    @property
    def deadline_seconds(self) -> float:
        """How long an answer may take."""

    def failed(self, error: SessionAuthorityError) -> None:
        """Log that the stream can't be followed."""

    async def run(self, operation: _core.Operation[_Result]) -> _Result:
        """Make the calls of an operation."""

    def watch(self) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        """Open the stream."""


class AsyncDriver:
    """Moves what the core needs. Every event loop asks for itself; the stream is followed on one of them.

    That one is the first which asks, and another as soon as it has stopped running.
    """

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
        self._askers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Asker] = WeakKeyDictionary()
        self._following: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    async def validate(self, request: ValidationRequest) -> Session | Rejection:
        """Ask the authority, together with others who ask at this moment, and keep the answer."""
        self.follow()
        message = _core.validation(request)
        if not message.session_token or not may_be_batched(message):
            return await self._client.run(_core.validate(request))
        outcome = await self._asker().ask(message)
        if isinstance(outcome, InvalidArgument):
            # Somebody's in the batch, perhaps not this one's.
            return await self._client.run(_core.validate(request))
        if isinstance(outcome, Exception):
            raise own_copy(outcome)
        return outcome

    def follow(self) -> None:
        """Make sure that the stream is followed."""
        if self._following is not None:
            loop, task = self._following
            if loop.is_running() and not task.done():
                return
        loop = asyncio.get_running_loop()
        self._following = loop, loop.create_task(self._follow(), name="session-authority-watch")

    async def stop(self) -> None:
        """Stop following the stream, where this loop does, and forget everything."""
        following, self._following = self._following, None
        self.core.stream_opened()  # whoever still follows another one finds that it is over
        if following is None:
            return
        loop, task = following
        if loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self) -> None:
        backoff = watching.Backoff()
        while True:
            generation = self.core.stream_opened()
            error: SessionAuthorityError | None = None
            try:
                error = await self._stream(generation, backoff)
            finally:
                wanted = self.core.stream_lost(generation, None if error is None else str(error))
            if not wanted or isinstance(error, ClientClosed):
                return
            self._client.failed(error)
            await asyncio.sleep(backoff.next_seconds(error, watching.chance()))

    async def _stream(self, generation: int, backoff: watching.Backoff) -> SessionAuthorityError:
        """Follow one stream, and say what it ended with."""
        try:
            call = self._client.watch()
        except ClientClosed as error:
            return error
        pinging = asyncio.create_task(self._ping(call, generation))
        try:
            while isinstance(payload := await call.read(), bytes):
                watching.apply(self.core, generation, payload)
                backoff.succeeded()
        except grpc.RpcError as error:
            return error_of(error)
        except Exception as error:  # noqa: BLE001 - no fault of one stream ends the following
            return watching.fault_of(error)
        except asyncio.CancelledError:
            # This task's own, or the call's: because no pong came, or the channel was closed.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return DeadlineExceeded("no pong")
        finally:
            pinging.cancel()
            call.cancel()
            await asyncio.wait([pinging])
        return Unavailable("the stream ended")

    async def _ping(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", generation: int) -> None:
        try:
            while not self.core.is_stale(generation, now := self.now()):
                ping_id = self.core.ping_sent(generation, now)
                if ping_id is None:
                    break
                async with asyncio.timeout(STALE_AFTER_SECONDS):
                    await call.write(watching.ping(ping_id))
                await asyncio.sleep(self.core.pause_seconds(watching.chance()))
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError):
            pass  # the reader hears of it
        finally:
            call.cancel()

    def _asker(self) -> "_Asker":
        loop = asyncio.get_running_loop()
        asker = self._askers.get(loop)
        if asker is None:
            asker = self._askers[loop] = _Asker(self.core, self._client, self.now)
        return asker

    def _report(self, due: Due) -> None:
        self._asker().report(due)


class _Asker:
    """Asks the questions of one event loop."""

    def __init__(self, core: NearCacheCore, client: Client, clock: Callable[[], float]) -> None:
        self._core = core
        self._client = client
        self._now = clock
        self._questions: Questions[_Waiter] = Questions()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def ask(self, message: v1.ValidateSessionRequest) -> Outcome:
        """Give the outcome of a question. Whoever is cancelled hurts no other who waits for it."""
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._questions.join(message, waiter)
        self._pump()
        try:
            async with asyncio.timeout(self._client.deadline_seconds):
                return await waiter
        except TimeoutError:
            return DeadlineExceeded("waiting for calls before it")

    def report(self, due: Due) -> None:
        """Report use, with the next call."""
        self._questions.report(due)
        self._pump()

    def _pump(self) -> None:
        # At the end of this turn of the loop, with all who ask in it.
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
            outcomes = await self._client.run(ask(self._core, self._now, questions))
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            outcomes = [error] * len(questions)
        for question, outcome in zip(questions, outcomes, strict=True):
            for waiter in question.waiters:
                if not waiter.done():  # it may have been cancelled
                    waiter.set_result(outcome)
