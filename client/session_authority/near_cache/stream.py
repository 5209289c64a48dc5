"""The stream of changes: its pings, its messages, and the wait before the next stream."""

import random
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError

from session_authority._error_details import error_of
from session_authority.errors import CallerRejected, InternalError, SessionAuthorityError
from session_authority.near_cache.core import NearCacheCore
from session_authority.v1 import session_watch_service_pb2 as v1

WATCH_METHOD = "/session_authority.v1.SessionWatchService/WatchSessions"

FIRST_WAIT_SECONDS = 0.1
WAIT_LIMIT_SECONDS = 5.0
REFUSED_WAIT_SECONDS = 30.0
"""The wait if only an operator can help: the API key is rejected, or the authority has no streams."""


def next_ping(
    core: NearCacheCore, generation: int, clock: Callable[[], float]
) -> tuple[bytes, float] | None:
    """Return a ping and the seconds until the next ping; None if the stream is over or no longer answers."""
    now = clock()
    ping_id = None if core.is_stale(generation, now) else core.ping_sent(generation, now)
    if ping_id is None:
        return None
    ping = v1.WatchSessionsRequest(ping=v1.Ping(ping_id=ping_id))
    return ping.SerializeToString(), core.pause_seconds(chance())


def apply(core: NearCacheCore, generation: int, payload: bytes) -> None:
    """Apply one message of the stream.

    Raises:
        InternalError: The message is not of the expected form, so a change may have been missed.
    """
    try:
        message = v1.WatchSessionsResponse.FromString(payload)
    except DecodeError:
        message = v1.WatchSessionsResponse()
    match message.WhichOneof("event"):
        case "evict":
            evict = message.evict
            core.evict_received(evict.session_ids, evict.user_ids, evict.all)
        case "pong":
            lease = message.pong.lease
            core.pong_received(generation, message.pong.ping_id, lease.seconds + lease.nanos / 1e9)
        case _:
            raise InternalError("the stream sent a message that this library does not understand")


def fault_of(error: Exception) -> SessionAuthorityError:
    """Return the library's exception for an error of a stream."""
    if isinstance(error, SessionAuthorityError):
        return error
    if isinstance(error, grpc.RpcError):
        return error_of(error)
    return InternalError(f"the stream could not be followed: {type(error).__name__}")


def chance() -> float:
    """Return a random number between 0 and 1, which spreads the clients' actions over time."""
    return random.random()  # noqa: S311 - no secret


class Backoff:
    """The wait before the next stream: longer each time, with jitter."""

    def __init__(self) -> None:
        self._wait_seconds = FIRST_WAIT_SECONDS

    def succeeded(self) -> None:
        """Reset the wait, because a stream delivered a message."""
        self._wait_seconds = FIRST_WAIT_SECONDS

    def next_seconds(self, error: SessionAuthorityError | None, random: float) -> float:
        """Return the seconds to wait, from a random number between 0 and 1."""
        wait_seconds = self._wait_seconds
        self._wait_seconds = min(2 * wait_seconds, WAIT_LIMIT_SECONDS)
        if isinstance(error, CallerRejected) or (
            isinstance(error, InternalError) and "UNIMPLEMENTED" in str(error)
        ):
            wait_seconds = REFUSED_WAIT_SECONDS
        return wait_seconds * (0.5 + random / 2)
