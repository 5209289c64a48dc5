"""A gRPC server that bounds its open calls. No call can end its accept loop."""

import asyncio
import contextlib
import types
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, TypeAlias

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it is compiled, and has no types

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.observability.metrics import QUEUE_REFUSALS, RPC_ERRORS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.dispatcher import LONGEST_DEADLINE_SECONDS
from session_authority_server.rpc.error_table import DeadlineExceeded, ServerOverloaded

# The unary calls and streams that a process may have open. A call is open from its first byte to its end.
CALLS_LIMIT = 25_000
STREAMS_LIMIT = 1_100  # above the hub's limit, so that the hub refuses with a reason
# The same for services that need no API key. gRPC reads their requests into memory, so these limits bound that memory.
KEYLESS_CALLS_LIMIT = 64
KEYLESS_STREAMS_LIMIT = 128
# How many refusals may be in progress. Further calls are cancelled instead, which needs no memory.
REFUSALS_LIMIT = 256
# How long a unary call without an API key may take to send its request.
KEYLESS_REQUEST_SECONDS = 5.0
# How long a unary call may be open. Its deadline starts with its request, which a caller may never send. Without this
# limit, such a call would keep its place even after its key is revoked.
OPEN_SECONDS = LONGEST_DEADLINE_SECONDS + 5.0

_UNKNOWN_METHOD = grpc.StatusCode.UNIMPLEMENTED, "there is no such method"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_refused = RPC_ERRORS.cell("unknown", "UNIMPLEMENTED", "UNIMPLEMENTED")
_log = structlog.get_logger("session_authority.rpc")


class OpenCalls:
    """The number of open calls of a kind, and its limit."""

    __slots__ = ("calls", "limit")

    def __init__(self, limit: int) -> None:
        self.calls = 0
        self.limit = limit

    def ended(self, _context: object) -> None:
        """Subtract a call that has ended from the open calls."""
        self.calls -= 1


class _BoundedServer(cygrpc.AioServer):  # type: ignore[misc]
    """gRPC's server, with limits on open calls.

    gRPC's accept loop decodes the path of a call to an unregistered method. A path that is not UTF-8 would end the
    loop, and with it the server. All methods of this server are registered, so it refuses every other call before
    the loop sees it.
    """

    def __init__(self, package: str, calls_limit: int, *arguments: Any, **named: Any) -> None:
        self._package = f"/{package}."
        self._kinds = {
            (True, False): OpenCalls(calls_limit),
            (True, True): OpenCalls(STREAMS_LIMIT),
            (False, False): OpenCalls(KEYLESS_CALLS_LIMIT),
            (False, True): OpenCalls(KEYLESS_STREAMS_LIMIT),
        }
        self._open: dict[bytes, OpenCalls] = {}
        self._refusing: set[asyncio.Task[None]] = set()
        self.cancelled_waits: list[object] = []
        super().__init__(*arguments, **named)

    def add_registered_method_handlers(self, method_handlers: dict[str, Handler]) -> None:
        bounded = {}
        for method, handler in method_handlers.items():
            ours = method.startswith(self._package)
            streams = handler.request_streaming or handler.response_streaming
            self._open[method.encode()] = self._kinds[ours, streams]
            bounded[method] = handler if ours or streams else _with_request_timeout(handler)
        super().add_registered_method_handlers(bounded)

    async def _request_call(self) -> Any:
        """Refuse calls of unregistered methods until the server stops."""
        while True:
            call = await _next_call(self, super()._request_call)
            _refused.value += 1
            if len(self._refusing) < REFUSALS_LIMIT:
                self._refuse(call, *_UNKNOWN_METHOD)
            del call  # gRPC cancels an unanswered call when its last reference is dropped

    async def _request_registered_call(self, method: bytes) -> Any:
        """Return the next call of a method. Refuse calls above the limit before gRPC reads their requests."""
        kind = self._open[method]
        while True:
            call = await _next_call(self, super()._request_registered_call, method)
            if kind.calls < kind.limit:
                kind.calls += 1
                context = _context(call)
                context.add_done_callback(kind.ended)
                if kind is self._kinds[True, False]:
                    end = asyncio.get_running_loop().call_later(
                        OPEN_SECONDS, self._refuse_with_error, call, method, DeadlineExceeded()
                    )
                    context.add_done_callback(lambda _context, end=end: end.cancel())
                return call
            QUEUE_REFUSALS.inc("open")
            if len(self._refusing) < REFUSALS_LIMIT:
                name = self._refuse_with_error(call, method, ServerOverloaded())
                _log.warning("too many calls are open", method=name, limit=kind.limit)
            del call

    def _refuse_with_error(self, call: Any, method: bytes, error: AuthorityError) -> str:
        """Refuse a call of a registered method. Return the method's name."""
        answer = error_table.answer(error)
        name = method.decode().rpartition("/")[2]
        RPC_ERRORS.inc(name, answer.code.name, answer.reason)
        self._refuse(call, answer.code, answer.message, answer.trailing_metadata)
        return name

    def _refuse(self, call: Any, *answer: Any) -> None:
        async def refuse() -> None:
            with contextlib.suppress(cygrpc.ExecuteBatchError):  # The caller has gone.
                try:
                    await _context(call).abort(*answer)
                except cygrpc.AbortError as sent:
                    # The call keeps this error. With a traceback, both would stay in memory until the garbage
                    # collector runs. Meanwhile gRPC would refuse the connection's further calls.
                    sent.with_traceback(None)

        refusing = asyncio.create_task(refuse())
        self._refusing.add(refusing)  # asyncio itself keeps only a weak reference
        refusing.add_done_callback(self._refusing.discard)


async def _next_call(server: _BoundedServer, request: Any, *arguments: Any) -> Any:
    """Return the next call, skipping any that failed while being accepted."""
    while True:
        try:
            return await _await_and_keep_if_cancelled(request(*arguments), server.cancelled_waits)
        except cygrpc._RequestCallError:
            if not server.is_running():
                raise


@types.coroutine
def _await_and_keep_if_cancelled(
    request: Any, cancelled_waits: list[object]
) -> Generator[Any, None, Any]:
    """Await one of gRPC's coroutines. If the wait is cancelled, keep the coroutine alive in a list.

    An event loop that ends cancels the wait. gRPC's core still writes the next call into the coroutine's memory.
    """
    while True:
        try:
            waiting = request.send(None)
        except StopIteration as done:
            return done.value
        try:
            yield waiting
        except asyncio.CancelledError:
            cancelled_waits.append(request)
            raise


def _context(call: Any) -> Any:
    return cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())


def _with_request_timeout(handler: Handler) -> Handler:
    """Return a unary handler that waits KEYLESS_REQUEST_SECONDS at most for its request."""
    behavior: Any = handler.unary_unary

    async def answer(_requests: object, context: Any) -> None:
        request = grpc.aio.EOF
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEYLESS_REQUEST_SECONDS):
                request = await context.read()
        if request is grpc.aio.EOF:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time"
            )
        await context.write(await behavior(request, context))

    return grpc.stream_stream_rpc_method_handler(
        answer, handler.request_deserializer, handler.response_serializer
    )


def server(
    package: str,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
    *,
    calls_limit: int = CALLS_LIMIT,
) -> grpc.aio.Server:
    """Return a server that serves registered methods only. Generated code registers its methods.

    Args:
        package: The proto package whose methods need an API key.
        interceptors: Interceptors of the accepted calls.
        options: gRPC's channel arguments.
        calls_limit: How many unary calls of the package's methods may be open.
    """
    # Replace `cygrpc.AioServer` while `grpc.aio.server` runs, because that function has no parameter for the class. The
    # arguments of the class change between releases, so do not construct it here.
    original, cygrpc.AioServer = cygrpc.AioServer, partial(_BoundedServer, package, calls_limit)
    try:
        return grpc.aio.server(interceptors=interceptors, options=options)
    finally:
        cygrpc.AioServer = original
