import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import grpc
from google.protobuf.duration_pb2 import Duration

from session_authority.v1 import session_watch_service_pb2 as pb
from session_authority_server.domain.errors import AuthorityError, InvalidRequest, Violation
from session_authority_server.domain.session import Changes
from session_authority_server.rpc.authentication import Authenticate, Metadata
from session_authority_server.rpc.error_table import UnexpectedFailure
from session_authority_server.watch.hub import Hub
from session_authority_server.watch.stream import Stream

Context = grpc.aio.ServicerContext[Any, Any]


METHOD = "/session_authority.v1.SessionWatchService/WatchSessions"
# How often streams are checked for silence, and for callers that may no longer watch.
CHECK_SECONDS = 0.5
# The shortest time between reads of two pings. A stream that pings more often is slowed down, not refused.
MINIMUM_PING_INTERVAL_SECONDS = 0.05
# How long the end of a stream waits for a message that is being written.
LAST_WRITE_SECONDS = 1.0


class SessionWatchService:
    """`session_authority.v1.SessionWatchService`: passes messages between streams and the hub."""

    def __init__(self, hub: Hub, authenticate: Authenticate) -> None:
        """Serve the streams of a hub. Each lasts as long as its caller may watch."""
        self._hub = hub
        self._authenticate = authenticate
        self._callers: dict[Stream, Metadata] = {}
        self.streams: Mapping[str, Callable[[object, Context], Awaitable[None]]] = {
            METHOD: self.WatchSessions
        }

    async def WatchSessions(self, _requests: object, context: Context) -> None:
        stream = self._hub.join()
        # An ended stream counts towards STREAMS_LIMIT until gRPC has delivered its final status to the caller. So call
        # `leave` only then. If a caller does not read, its stream counts for longer.
        done: Any = lambda _context: self._hub.leave(stream)  # noqa: E731 - gRPC's types accept no plain function
        context.add_done_callback(done)
        self._callers[stream] = cast("Metadata", context.invocation_metadata())
        reading = asyncio.create_task(self._read(stream, context))
        writing = asyncio.create_task(_write(stream, context))
        try:
            await asyncio.wait((writing, stream.ended), return_when=asyncio.FIRST_COMPLETED)
            # Wait for the message in progress: gRPC can't end a stream while its first message is being written.
            await asyncio.wait([writing], timeout=LAST_WRITE_SECONDS)
            if stream.ended.done():
                raise stream.ended.result()
        finally:
            del self._callers[stream]
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def keep_checking(self) -> None:
        """Run `check` at regular intervals until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """End the streams that may not continue.

        End a stream if its caller's API key no longer permits watching. Also end a stream if its caller has sent
        nothing for SILENCE_SECONDS.
        """
        for stream, metadata in list(self._callers.items()):
            try:
                self._authenticate(METHOD, metadata)
            except AuthorityError as error:
                self._hub.end(stream, error)
        self._hub.end_silent()

    async def _read(self, stream: Stream, context: Context) -> None:
        try:
            await self._read_pings(stream, context)
        except AuthorityError as error:
            self._hub.end(stream, error)
        except Exception as error:  # noqa: BLE001 - any failure becomes a documented error
            failure = UnexpectedFailure()
            failure.__cause__ = error
            self._hub.end(stream, failure)
        else:
            stream.finish()

    async def _read_pings(self, stream: Stream, context: Context) -> None:
        loop = asyncio.get_running_loop()
        read_after = loop.time()
        while (request := await context.read()) is not grpc.aio.EOF:
            if isinstance(request, AuthorityError):
                raise request
            if not request.HasField("ping"):
                raise InvalidRequest([Violation("ping", "is missing; each message must be a ping")])
            self._hub.pinged(stream, request.ping.ping_id)
            early = read_after - loop.time()
            if early > 0:
                await asyncio.sleep(early)
            read_after = loop.time() + MINIMUM_PING_INTERVAL_SECONDS


async def _write(stream: Stream, context: Context) -> None:
    while (message := await stream.take()) is not None:
        await context.write(message)


def encode_changes(changes: Changes) -> bytes:
    """Return the encoded message that evicts changed sessions."""
    evict = pb.Evict(
        session_ids=[str(session_id) for session_id in changes.session_ids],
        user_ids=changes.user_ids,
        all=changes.everybody,
    )
    return pb.WatchSessionsResponse(evict=evict).SerializeToString()


def encode_pong(lease: timedelta) -> Callable[[int], bytes]:
    """Return a function that encodes the pong for a ping id, with a lease."""
    duration = Duration()
    duration.FromTimedelta(lease)

    def encode(ping_id: int) -> bytes:
        pong = pb.Pong(ping_id=ping_id, lease=duration)
        return pb.WatchSessionsResponse(pong=pong).SerializeToString()

    return encode
