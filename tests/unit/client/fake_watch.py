"""The stream of the fake authority: it answers pings, and tells what it is told to tell."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc

from session_authority.v1 import session_watch_service_pb2 as v1

SERVICE = v1.DESCRIPTOR.services_by_name["SessionWatchService"]

Told = v1.WatchSessionsResponse | bytes | grpc.StatusCode


class FakeWatch:
    """What all streams of a fake authority share.

    Attributes:
        lease: What pongs give.
        mute: Whether pings get no pong.
        refused: A status with which each stream ends at once.
        opened: How many streams there have been.
        pings: How many pings have arrived.
        metadata: What came with the latest stream.
    """

    def __init__(self) -> None:
        self.lease = timedelta(seconds=30)
        self.mute = False
        self.refused: grpc.StatusCode | None = None
        self.opened = 0
        self.pings = 0
        self.metadata: dict[str, Any] = {}
        self._streams: list[Callable[[Told | None], None]] = []

    @property
    def streams(self) -> int:
        return len(self._streams)

    def tell(self, *told: Told) -> None:
        """Put messages on every stream; a status ends it."""
        for put in [*self._streams]:
            for each in told:
                put(each)

    def evict(
        self, *session_ids: str, users: tuple[str, ...] = (), everything: bool = False
    ) -> None:
        evict = v1.Evict(session_ids=session_ids, user_ids=users, all=everything)
        self.tell(v1.WatchSessionsResponse(evict=evict))

    def end(self) -> None:
        for put in [*self._streams]:
            put(None)

    def _begin(self, context: Any, put: Callable[[Told | None], None]) -> None:
        self.metadata = dict(context.invocation_metadata())
        self.opened += 1
        self._streams.append(put)
        if self.refused is not None:
            put(self.refused)

    def _pong(self, request: v1.WatchSessionsRequest) -> v1.WatchSessionsResponse | None:
        self.pings += 1
        if self.mute:
            return None
        pong = v1.Pong(ping_id=request.ping.ping_id)
        pong.lease.FromTimedelta(self.lease)
        return v1.WatchSessionsResponse(pong=pong)

    def in_threads(
        self, requests: Iterator[v1.WatchSessionsRequest], context: Any
    ) -> Iterator[Any]:
        told: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._begin(context, told.put)
        if not context.add_callback(lambda: told.put(None)):  # it is over already
            told.put(None)

        def read() -> None:
            try:
                for request in requests:
                    if pong := self._pong(request):
                        told.put(pong)
            except Exception:  # noqa: BLE001 - the stream is over
                pass

        threading.Thread(target=read, daemon=True).start()
        try:
            while (each := told.get()) is not None:
                if isinstance(each, grpc.StatusCode):
                    context.abort(each, "told to")
                yield each
        finally:
            self._streams.remove(told.put)

    async def in_tasks(
        self, requests: AsyncIterator[v1.WatchSessionsRequest], context: Any
    ) -> AsyncIterator[Any]:
        told: asyncio.Queue[Told | None] = asyncio.Queue()
        put = told.put_nowait
        self._begin(context, put)

        async def read() -> None:
            async for request in requests:
                if pong := self._pong(request):
                    put(pong)

        reading = asyncio.create_task(read())
        try:
            while (each := await told.get()) is not None:
                if isinstance(each, grpc.StatusCode):
                    await context.abort(each, "told to")
                yield each
        finally:
            reading.cancel()
            self._streams.remove(put)

    def handlers(self, behave: Any) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name,
            {
                "WatchSessions": grpc.stream_stream_rpc_method_handler(
                    behave,
                    request_deserializer=v1.WatchSessionsRequest.FromString,
                    response_serializer=lambda told: (
                        told if isinstance(told, bytes) else told.SerializeToString()
                    ),
                )
            },
        )
