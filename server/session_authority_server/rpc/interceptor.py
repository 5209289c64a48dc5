import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from session_authority_server.domain.errors import AuthorityError, SessionNotLive
from session_authority_server.metrics import RPC_ERRORS, RPC_SECONDS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.authentication import Authenticate
from session_authority_server.rpc.caller import current_caller
from session_authority_server.rpc.error_table import (
    DeadlineExceeded,
    MalformedRequest,
    RequestTooLarge,
    ServerOverloaded,
    Unforeseen,
)
from session_authority_server.rpc.even_time import even_time
from session_authority_server.rpc.rejected_tokens import RejectedTokens

DEADLINE_SECONDS = 5.0
LONGEST_DEADLINE_SECONDS = 60.0
MAX_IN_FLIGHT_CALLS = 256
REQUEST_LIMIT_BYTES = 64 * 1024
BATCH_REQUEST_LIMIT_BYTES = 1024 * 1024
BATCH_METHOD = "BatchValidateSessions"
SLOW_SECONDS = 1.0
_OVERLOAD_LOG_SECONDS = 10.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FoundHandler: TypeAlias = "Handler | None"
Parse = Callable[[bytes], Message]

_log = structlog.get_logger("session_authority.rpc")


class InFlight:
    """How many calls are under way, and may be.

    Attributes:
        calls: How many are. Counted in the one thread of the event loop.
        limit: How many may be; the next is refused.
    """

    __slots__ = ("_logged", "calls", "limit")

    def __init__(self, limit: int) -> None:
        self.calls = 0
        self.limit = limit
        self._logged = float("-inf")

    def log_refusal(self) -> None:
        """Leave a line in the log now and then: one a call would be a load of its own."""
        now = time.monotonic()
        if now - self._logged >= _OVERLOAD_LOG_SECONDS:
            self._logged = now
            _log.warning("overloaded; refusing calls", max_in_flight_calls=self.limit)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets in whom it may, and gives calls documented errors and, if they fail, a log line; unary ones a deadline too.

    Those beyond what the server takes on at once it refuses before they are read. One interceptor for all of it,
    and what it makes of a method is kept: each further one costs every call.
    """

    def __init__(
        self,
        package: str,
        authenticate: Authenticate,
        *,
        max_in_flight_calls: int = MAX_IN_FLIGHT_CALLS,
        rejected: RejectedTokens | None = None,
    ) -> None:
        """Take charge of the services of one proto package; others pass untouched.

        Args:
            package: Its name.
            authenticate: Who calls, or why they may not.
            max_in_flight_calls: How many calls may be under way at once.
            rejected: Limits answers about unknown tokens; without it there is no limit.
        """
        self._prefix = f"/{package}."
        self._authenticate = authenticate
        self._in_flight = InFlight(max_in_flight_calls)
        self._rejected = rejected
        self._wrapped: dict[str, Handler] = {}
        self._overloaded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[FoundHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> FoundHandler:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(self._prefix):
                return handler
            name = method.rpartition("/")[2]
            if handler.unary_unary is not None:
                wrapped = _wrap(name, handler, self._in_flight, self._rejected)
                # As one of streams it answers without waiting for the request.
                refuse: Any = _overloaded(name, self._in_flight)
                self._overloaded[method] = grpc.stream_stream_rpc_method_handler(refuse)
            else:
                wrapped = _wrap_streams(name, handler)
            self._wrapped[method] = wrapped
        # Streams have a bound of their own: a cache that can't follow would bring more calls.
        if self._in_flight.calls >= self._in_flight.limit and method in self._overloaded:
            return self._overloaded[method]
        try:
            caller = self._authenticate(method, handler_call_details.invocation_metadata)
        except AuthorityError as error:
            return _refusing(method.rpartition("/")[2], error)
        current_caller.set(caller)  # of this call's own task, in which its handler runs too
        return wrapped


def _overloaded(method: str, in_flight: InFlight) -> Behavior:
    """Return what refuses a call for as little as possible: always the same, without a line in the log."""
    answer = error_table.answer(ServerOverloaded())
    refused = RPC_ERRORS.labels(method=method, reason=answer.reason)

    async def refuse(_request: object, context: Context) -> NoReturn:
        refused.inc()
        in_flight.log_refusal()
        await context.abort(answer.code, answer.message, answer.trailing_metadata)

    return refuse


def _wrap(
    method: str, handler: Handler, in_flight: InFlight, rejected: RejectedTokens | None
) -> Handler:
    behavior: Any = handler.unary_unary
    parse: Any = handler.request_deserializer
    limit_bytes = BATCH_REQUEST_LIMIT_BYTES if method == BATCH_METHOD else REQUEST_LIMIT_BYTES
    return grpc.unary_unary_rpc_method_handler(
        _answering(method, behavior, in_flight, rejected),
        _parsing(f"{method}Request", parse, limit_bytes),
        _serializing(handler.response_serializer),
    )


def _wrap_streams(method: str, handler: Handler) -> Handler:
    behavior: Any = handler.stream_stream
    parse: Any = handler.request_deserializer

    async def stream(requests: object, context: Context) -> None:
        try:
            await behavior(requests, context)
        except AuthorityError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a documented error
            _log.exception("unforeseen failure", method=method)
            error = Unforeseen()
        else:
            return
        # Who doesn't read what was said before doesn't hear this either, and keeps us until the connection ends.
        await _abort(context, method, error)

    return grpc.stream_stream_rpc_method_handler(
        stream,
        _parsing(f"{method}Request", parse, REQUEST_LIMIT_BYTES),
        _serializing(handler.response_serializer),
    )


def _refusing(method: str, error: AuthorityError) -> Handler:
    """Return a handler that refuses a call, of whichever kind, without reading what it sends."""

    async def refuse(_requests: object, context: Context) -> None:
        await _abort(context, method, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _parsing(
    expected: str, parse: Parse, limit_bytes: int
) -> Callable[[bytes], Message | AuthorityError]:
    """Return a parser that returns what is wrong: what it raised would be answered as INTERNAL."""

    def deserialize(data: bytes) -> Message | AuthorityError:
        if len(data) > limit_bytes:
            return RequestTooLarge(limit_bytes)
        try:
            return parse(data)
        except DecodeError:
            return MalformedRequest(expected)

    return deserialize


def _serializing(serialize: Any) -> Callable[[Message | bytes], bytes]:
    """Return a serializer that lets through what a handler remembered in serialized form."""

    def serialized(answer: Message | bytes) -> bytes:
        return answer if type(answer) is bytes else serialize(answer)

    return serialized


def _answering(
    method: str, behavior: Behavior, in_flight: InFlight, rejected: RejectedTokens | None
) -> Behavior:
    refuse = _overloaded(method, in_flight)

    async def call(request: Message | AuthorityError, context: Context) -> Any:
        if in_flight.calls >= in_flight.limit:  # reached while this one's request was waited for
            return await refuse(request, context)
        started, end_of_period = time.perf_counter(), even_time()
        in_flight.calls += 1
        try:
            if isinstance(request, AuthorityError):
                error = request
            else:
                return await _in_time(behavior(request, context), context.time_remaining())
        except SessionNotLive as raised:
            error = _counted(rejected, raised)
            await end_of_period()
        except AuthorityError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a documented error
            _log.exception("unforeseen failure", method=method)
            error = Unforeseen()
        finally:
            in_flight.calls -= 1
            took = time.perf_counter() - started
            RPC_SECONDS.observe(method, took)
            if took > SLOW_SECONDS:
                _log.warning("slow call", method=method, seconds=round(took, 3))
        return await _abort(context, method, error)

    return call


def _counted(rejected: RejectedTokens | None, error: SessionNotLive) -> AuthorityError:
    """Return the error to answer with, after counting a token that is unknown."""
    if rejected is None or error.rejected is None or error.superseded is not None:
        return error
    return rejected.count() or error


def _in_time(answer: Awaitable[Any], remaining_seconds: float | None) -> Awaitable[Any]:
    """Return what gives the answer while a deadline lasts: the caller's, which gRPC sees to, if it is sane."""
    if remaining_seconds is None:
        return _within(DEADLINE_SECONDS, answer)
    if remaining_seconds > LONGEST_DEADLINE_SECONDS:
        return _within(LONGEST_DEADLINE_SECONDS, answer)
    return answer


async def _within(seconds: float, answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded from None


async def _abort(context: Context, method: str, error: AuthorityError) -> NoReturn:
    answer = error_table.answer(error)
    RPC_ERRORS.labels(method=method, reason=answer.reason).inc()
    _log.info("call refused", method=method, code=answer.code.name, reason=answer.reason)
    await context.abort(answer.code, answer.message, answer.trailing_metadata)
