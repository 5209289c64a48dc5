"""The near cache of the client for asyncio: a task follows the stream, and others carry what is asked."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

import grpc

from session_authority import _core
from session_authority._batching_aio import Batcher
from session_authority._error_details import error_of
from session_authority.errors import (
    ClientClosed,
    DeadlineExceeded,
    SessionAuthorityError,
    Unavailable,
)
from session_authority.near_cache import watching
from session_authority.near_cache.clock import lease_clock
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.lease import STALE_AFTER_SECONDS
from session_authority.near_cache.operations import ask, report_of
from session_authority.near_cache.questions import decoded
from session_authority.near_cache.settings import NearCache
from session_authority.session import Rejection, Session, ValidationRequest

_Result = TypeVar("_Result")


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
        self._batchers: WeakKeyDictionary[asyncio.AbstractEventLoop, Batcher] = WeakKeyDictionary()
        self._following: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    async def validate(self, request: ValidationRequest) -> Session | Rejection:
        """Ask the authority, together with others who ask at this moment, and keep the answer."""
        self.follow()
        return await self._batcher().validate(request)

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

    def _batcher(self) -> Batcher:
        loop = asyncio.get_running_loop()
        batcher = self._batchers.get(loop)
        if batcher is None:
            client = self._client
            exchange = partial(ask, self.core, self.now)
            batcher = Batcher(client.run, exchange, client.deadline_seconds)
            self._batchers[loop] = batcher
        return batcher

    def _report(self, due: Due) -> None:
        self._batcher().report(report_of(due))
