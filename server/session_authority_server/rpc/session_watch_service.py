import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from session_authority.v1 import session_watch_service_pb2 as pb
from session_authority_server.domain.errors import AuthorityError, InvalidRequest, Violation
from session_authority_server.domain.session import Changes
from session_authority_server.rpc.authentication import Authenticate, Metadata
from session_authority_server.rpc.error_table import UnexpectedFailure
from session_authority_server.watch.hub import Hub
from session_authority_server.watch.stream import Stream

Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger("session_authority.rpc")

METHOD = "/session_authority.v1.SessionWatchService/WatchSessions"
# How often streams are checked for silence, and for callers who may no longer watch.
CHECK_SECONDS = 0.5
# How long after a ping the next one is read. A stream that pings more often is held back, not refused.
SHORTEST_PING_SECONDS = 0.05
# How long a stream that ends waits for a message on its way.
LAST_WORD_SECONDS = 1.0


class SessionWatchService:
    """`session_authority.v1.SessionWatchService`: moves messages between streams and the hub."""

    def __init__(self, hub: Hub, authenticate: Authenticate) -> None:
        """Serve the streams of a hub, each for as long as its caller may watch."""
        self._hub = hub
        self._authenticate = authenticate
        self._callers: dict[Stream, Metadata] = {}
        self.streams: Mapping[str, Callable[[object, Context], Awaitable[None]]] = {
            METHOD: self.WatchSessions
        }

    async def WatchSessions(self, _requests: object, context: Context) -> None:
        stream = self._hub.join()
        # A stream keeps its place until its caller has learnt that it ended. One that doesn't read takes long.
        done: Any = lambda _context: self._hub.leave(stream)  # noqa: E731 - what gRPC's types ask for it never gives
        context.add_done_callback(done)
        self._callers[stream] = cast("Metadata", context.invocation_metadata())
        reading = asyncio.create_task(self._read(stream, context))
        writing = asyncio.create_task(_write(stream, context))
        try:
            await asyncio.wait((writing, stream.ended), return_when=asyncio.FIRST_COMPLETED)
            # gRPC can't end a stream while it writes the stream's first message.
            await asyncio.wait([writing], timeout=LAST_WORD_SECONDS)
            if stream.ended.done():
                raise stream.ended.result()
        finally:
            del self._callers[stream]
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def keep_checking(self) -> None:
        """End streams of callers who may no longer watch or have gone silent, again and again until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """End the streams of callers who may no longer watch or have gone silent."""
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
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a documented error
            _log.exception("unexpected failure", method="WatchSessions")
            self._hub.end(stream, UnexpectedFailure())
        else:
            stream.finish()

    async def _read_pings(self, stream: Stream, context: Context) -> None:
        loop = asyncio.get_running_loop()
        read_after = loop.time()
        while (request := await context.read()) is not grpc.aio.EOF:
            if isinstance(request, AuthorityError):
                raise request
            if not request.HasField("ping"):
                raise InvalidRequest([Violation("ping", "is missing; each message is a ping")])
            self._hub.pinged(stream, request.ping.ping_id)
            early = read_after - loop.time()
            if early > 0:
                await asyncio.sleep(early)
            read_after = loop.time() + SHORTEST_PING_SECONDS


async def _write(stream: Stream, context: Context) -> None:
    while (message := await stream.take()) is not None:
        await context.write(message)


def encode_changes(changes: Changes) -> bytes:
    """Return the message that tells of changes."""
    evict = pb.Evict(
        session_ids=[str(session_id) for session_id in changes.session_ids],
        user_ids=changes.user_ids,
        all=changes.everybody,
    )
    return pb.WatchSessionsResponse(evict=evict).SerializeToString()


def encode_pong(lease: timedelta) -> Callable[[int], bytes]:
    """Return a function that encodes the answer to a ping, with a lease."""
    duration = Duration()
    duration.FromTimedelta(lease)

    def encode(ping_id: int) -> bytes:
        pong = pb.Pong(ping_id=ping_id, lease=duration)
        return pb.WatchSessionsResponse(pong=pong).SerializeToString()

    return encode
