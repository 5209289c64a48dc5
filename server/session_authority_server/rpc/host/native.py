"""The host whose HTTP/2 runs in Rust, outside the GIL (package `pygrpc-native`)."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.error_table import DETAILS_KEY, Answer
from session_authority_server.rpc.host import CannotListen, UnaryCalls
from session_authority_server.rpc.host.grpcio import METADATA_LIMIT_BYTES, GrpcioHost
from session_authority_server.rpc.refused_calls import refusal

EVENTS_AT_ONCE = 256
BATCHES_IN_LOOP_LIMIT = 2
CALLS_PER_CONNECTION = 170
# One thread reads and writes three times as many calls as Python answers. More threads only wake each other.
_IO_THREADS = 1
_UNAVAILABLE = 14
_FLUSH_SECONDS = 0.1
# The limit of the parent folder leaves room for the rest. A socket's path has at most 103 bytes on macOS, 107 on Linux.
_PARENT_LIMIT_BYTES = 60


class NativeHost:
    """Serves unary RPCs. Passes all other calls to a `GrpcioHost` through a Unix socket."""

    name = "native"

    def __init__(
        self,
        dispatcher: UnaryCalls,
        fallback: GrpcioHost,
        *,
        share_port: bool = False,
        calls_per_connection: int = CALLS_PER_CONNECTION,
    ) -> None:
        """Serve RPCs.

        Args:
            dispatcher: Answers unary RPCs.
            fallback: Serves streams, health, reflection and unknown methods.
            share_port: Whether other processes may listen on the same port.
            calls_per_connection: How many calls and streams a connection carries at once.
        """
        self._dispatcher = dispatcher
        self._methods = dispatcher.unary
        self._fallback = fallback
        self._share_port = share_port
        self._calls_per_connection = calls_per_connection
        self._calls: dict[int, Call] = {}
        self._stopping = False
        self._ended = asyncio.Event()
        self._idle = asyncio.Event()
        self._front: Any = None
        self._folder: str | None = None
        # At most BATCHES_IN_LOOP_LIMIT batches of new calls wait in the event loop. Further calls wait in the Rust
        # code. So the event loop has time to send answers when very many calls arrive.
        self._batch_places = threading.Semaphore(BATCHES_IN_LOOP_LIMIT)

    def bind(self, address: str) -> str:
        try:
            self._front = NativeGrpcFront(
                address,
                [(method.path, False) for method in self._methods],
                call_details=True,
                io_threads=_IO_THREADS,
                max_concurrent_streams=self._calls_per_connection,
                max_metadata_size=METADATA_LIMIT_BYTES,
                keepalive_time_ms=60_000,
                keepalive_timeout_ms=20_000,
                reuse_port=self._share_port,
            )
        except OSError as error:
            raise CannotListen(address) from error
        return f"{address.rpartition(':')[0]}:{self._front.bound_port}"

    async def start(self) -> None:
        self._folder = _private_folder()
        socket = Path(self._folder, "grpcio.sock")
        self._fallback.bind(f"unix:{socket}")
        await self._fallback.start()
        self._front.set_fallback(str(socket))
        self._front.start()
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._receive, args=(loop,), name="native-host", daemon=True
        ).start()

    async def stop(self, grace_seconds: float) -> None:
        self._stopping = True
        fallback = asyncio.create_task(self._fallback.stop(grace_seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self._calls:
                    self._idle.clear()
                    await self._idle.wait()
        for call in list(self._calls.values()):
            call.cancel()
        await fallback
        # `close` drops answers that are not written yet, and the front does not report when all are written.
        await asyncio.sleep(min(_FLUSH_SECONDS, grace_seconds))
        await asyncio.to_thread(self._front.close)
        # Wake the thread if it waits for a place. A stopped event loop frees no more places.
        self._batch_places.release()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def ended(self) -> None:
        endings = [
            asyncio.create_task(each) for each in (self._ended.wait(), self._fallback.ended())
        ]
        try:
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in endings:
                each.cancel()

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass calls to the event loop in batches. Runs in its own thread."""
        with contextlib.suppress(RuntimeError):  # raised once the event loop is closed
            try:
                while (events := self._front.recv_batch_details(EVENTS_AT_ONCE)) is not None:
                    self._batch_places.acquire()
                    loop.call_soon_threadsafe(self._take, events)
            finally:
                loop.call_soon_threadsafe(self._ended.set)

    def _take(self, events: Sequence[tuple[Any, ...]]) -> None:
        self._batch_places.release()
        for kind, call_id, method_id, payload, _, details in events:
            if kind == EVENT_CANCEL:
                self._cancel(call_id)
            elif self._stopping:
                self._front.fail(call_id, _UNAVAILABLE, "the server is shutting down")
            else:
                try:
                    self._begin(call_id, method_id, payload, details)
                except Exception as error:  # noqa: BLE001 - the other calls continue, and this one gets an answer
                    name = self._methods[method_id].name
                    self._reply(call_id, refusal(name, error, details))

    def _begin(self, call_id: int, method_id: int, payload: bytes, details: Any) -> None:
        metadata, _peer, seconds_left = details
        method = self._methods[method_id]
        try:
            caller = self._dispatcher.admit(method.path, metadata)
        except AuthorityError as error:
            self._fail(call_id, self._dispatcher.turn_away(method.path, metadata, error, details))
            return
        tracing = self._dispatcher.tracing
        new_call = Call if tracing is None else partial(tracing.new_call, metadata)
        call = new_call(method, caller, seconds_left, partial(self._reply, call_id), details)
        self._calls[call_id] = call
        self._dispatcher.take(call, payload)

    def _cancel(self, call_id: int) -> None:
        call = self._calls.get(call_id)
        if call is not None:
            self._forget(call_id)
            call.cancel()

    def _reply(self, call_id: int, answer: bytes | Answer) -> None:
        self._forget(call_id)
        if isinstance(answer, bytes):
            self._front.respond(call_id, answer)
        else:
            self._fail(call_id, answer)

    def _forget(self, call_id: int) -> None:
        self._calls.pop(call_id, None)
        if not self._calls:
            self._idle.set()

    def _fail(self, call_id: int, answer: Answer) -> None:
        # The front reserves all keys that begin with "grpc-", except DETAILS_KEY.
        metadata = [
            pair
            for pair in answer.trailing_metadata
            if pair[0] == DETAILS_KEY or not pair[0].startswith("grpc-")
        ]
        self._front.fail(call_id, answer.code.value[0], answer.message, metadata)


def _private_folder() -> str:
    """Create a folder that only its owner can use, with a path short enough for a socket."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _PARENT_LIMIT_BYTES:
        parent = "/tmp"  # noqa: S108 - mkdtemp chooses a name that cannot be guessed
    return tempfile.mkdtemp(prefix="session-authority-", dir=parent)
