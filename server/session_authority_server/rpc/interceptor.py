import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.metrics import RPC_ERRORS, RPC_SECONDS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.authentication import Authenticate
from session_authority_server.rpc.caller import current_caller
from session_authority_server.rpc.error_table import (
    DeadlineExceeded,
    MalformedRequest,
    RequestTooLarge,
    Unforeseen,
)

DEADLINE_SECONDS = 5.0
REQUEST_LIMIT_BYTES = 64 * 1024
BATCH_REQUEST_LIMIT_BYTES = 1024 * 1024
BATCH_METHOD = "BatchValidateSessions"
SLOW_SECONDS = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FoundHandler: TypeAlias = "Handler | None"
Parse = Callable[[bytes], Message]

_log = structlog.get_logger("session_authority.rpc")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets in whom it may, and gives unary calls a deadline, documented errors and, if they fail, a log line.

    One interceptor for all of it, and what it makes of a method is kept: each further one costs every call.
    """

    def __init__(self, package: str, authenticate: Authenticate) -> None:
        """Take charge of the services of one proto package; others pass untouched.

        Args:
            package: Its name.
            authenticate: Who calls, or why they may not.
        """
        self._prefix = f"/{package}."
        self._authenticate = authenticate
        self._wrapped: dict[str, Handler] = {}

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
            if handler.unary_unary is not None:
                handler = _wrap(method.rpartition("/")[2], handler)
            wrapped = self._wrapped[method] = handler
        try:
            caller = self._authenticate(method, handler_call_details.invocation_metadata)
        except AuthorityError as error:
            return _refusing(method.rpartition("/")[2], error)
        current_caller.set(caller)  # of this call's own task, in which its handler runs too
        return wrapped


def _wrap(method: str, handler: Handler) -> Handler:
    behavior: Any = handler.unary_unary
    parse: Any = handler.request_deserializer
    limit_bytes = BATCH_REQUEST_LIMIT_BYTES if method == BATCH_METHOD else REQUEST_LIMIT_BYTES
    return grpc.unary_unary_rpc_method_handler(
        _answering(method, behavior),
        _parsing(f"{method}Request", parse, limit_bytes),
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


def _answering(method: str, behavior: Behavior) -> Behavior:

    async def call(request: Message | AuthorityError, context: Context) -> Any:
        started = time.perf_counter()
        try:
            if isinstance(request, AuthorityError):
                error = request
            elif context.time_remaining() is None:
                return await _within_deadline(behavior(request, context))
            else:
                return await behavior(request, context)
        except AuthorityError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a documented error
            _log.exception("unforeseen failure", method=method)
            error = Unforeseen()
        finally:
            took = time.perf_counter() - started
            RPC_SECONDS.observe(method, took)
            if took > SLOW_SECONDS:
                _log.warning("slow call", method=method, seconds=round(took, 3))
        return await _abort(context, method, error)

    return call


async def _within_deadline(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded from None


async def _abort(context: Context, method: str, error: AuthorityError) -> NoReturn:
    answer = error_table.answer(error)
    RPC_ERRORS.labels(method=method, reason=answer.reason).inc()
    _log.info("call refused", method=method, code=answer.code.name, reason=answer.reason)
    await context.abort(answer.code, answer.message, answer.trailing_metadata)
