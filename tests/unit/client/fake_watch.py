"""The watch stream of the fake authority. It answers pings and sends the test's messages."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc

from session_authority.v1 import session_watch_service_pb2 as v1

SERVICE = v1.DESCRIPTOR.services_by_name["SessionWatchService"]

Outgoing = v1.WatchSessionsResponse | bytes | grpc.StatusCode


class FakeWatch:
    """The state that all streams of a fake authority share.

    Attributes:
        lease: The lease that pongs grant.
        mute: Whether pings get no pong.
        refused: The status that ends each stream at once.
        opened: How many streams have been opened.
        pings: How many pings have arrived.
        metadata: The metadata of the latest stream.
    """

    def __init__(self) -> None:
        self.lease = timedelta(seconds=30)
        self.mute = False
        self.refused: grpc.StatusCode | None = None
        self.opened = 0
        self.pings = 0
        self.metadata: dict[str, Any] = {}
        self._streams: list[Callable[[Outgoing | None], None]] = []

    @property
    def streams(self) -> int:
        return len(self._streams)

    def send_to_all(self, *outgoing: Outgoing) -> None:
        """Send messages on every stream. A status ends the stream."""
        for put in [*self._streams]:
            for each in outgoing:
                put(each)

    def evict(
        self, *session_ids: str, users: tuple[str, ...] = (), everything: bool = False
    ) -> None:
        evict = v1.Evict(session_ids=session_ids, user_ids=users, all=everything)
        self.send_to_all(v1.WatchSessionsResponse(evict=evict))

    def end(self) -> None:
        for put in [*self._streams]:
            put(None)

    def _begin(self, context: Any, put: Callable[[Outgoing | None], None]) -> None:
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
        outgoing: queue.SimpleQueue[Outgoing | None] = queue.SimpleQueue()
        self._begin(context, outgoing.put)
        if not context.add_callback(lambda: outgoing.put(None)):  # the call has already ended
            outgoing.put(None)

        def read() -> None:
            try:
                for request in requests:
                    if pong := self._pong(request):
                        outgoing.put(pong)
            except Exception:  # noqa: BLE001 - the stream is over
                pass

        threading.Thread(target=read, daemon=True).start()
        try:
            while (each := outgoing.get()) is not None:
                if isinstance(each, grpc.StatusCode):
                    context.abort(each, "ended by the test")
                yield each
        finally:
            self._streams.remove(outgoing.put)

    async def in_tasks(
        self, requests: AsyncIterator[v1.WatchSessionsRequest], context: Any
    ) -> AsyncIterator[Any]:
        outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue()
        put = outgoing.put_nowait
        self._begin(context, put)

        async def read() -> None:
            async for request in requests:
                if pong := self._pong(request):
                    put(pong)

        reading = asyncio.create_task(read())
        try:
            while (each := await outgoing.get()) is not None:
                if isinstance(each, grpc.StatusCode):
                    await context.abort(each, "ended by the test")
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
                    response_serializer=lambda outgoing: (
                        outgoing if isinstance(outgoing, bytes) else outgoing.SerializeToString()
                    ),
                )
            },
        )
