"""A gRPC server whose accept loop no call can end, and which bounds the calls that are open."""

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
from session_authority_server.observability.metrics import RPC_ERRORS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.dispatcher import LONGEST_DEADLINE_SECONDS
from session_authority_server.rpc.error_table import DeadlineExceeded, ServerOverloaded

# How many calls of each kind may be open in a process: of our methods that answer once, from the first byte of a
# call to its end; of our streams; and, of services that ask for no key, again those that answer once and streams.
# gRPC reads the request of a keyless call into memory, up to its largest message: the two keyless limits bound that.
CALLS_LIMIT = 25_000
STREAMS_LIMIT = 1_100  # more than may watch, so that who is one too many is told so
KEYLESS_CALLS_LIMIT = 64
KEYLESS_STREAMS_LIMIT = 128
# How many new calls may be in the middle of being refused. Further ones are cancelled instead, which needs no memory.
REFUSALS_LIMIT = 256
# How long a call that asks for no key may take to say what it wants.
KEYLESS_REQUEST_SECONDS = 5.0
# How long a call of a method that answers once may be open. Its deadline, 60 seconds at most, counts from its request
# on, and a caller may never send that: it would keep its place though its key be revoked.
OPEN_SECONDS = LONGEST_DEADLINE_SECONDS + 5.0

_UNKNOWN_METHOD = grpc.StatusCode.UNIMPLEMENTED, "there is no such method"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_refused = RPC_ERRORS.labels(method="unknown", reason="UNIMPLEMENTED")
_log = structlog.get_logger("session_authority.rpc")


class OpenCalls:
    """How many calls of a kind are open, and may be."""

    __slots__ = ("calls", "limit")

    def __init__(self, limit: int) -> None:
        self.calls = 0
        self.limit = limit

    def ended(self, _context: object) -> None:
        """Count one that has ended, however it did."""
        self.calls -= 1


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls on, as gRPC's loop asks for them.

    The loop decodes the path of a call for a method that it does not know, and one that is not UTF-8 ends the
    loop, and with it the server. All our methods are known to it beforehand. So any other call is refused in
    here, by its kind alone, and the loop never sees one.
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
        self.abandoned: list[object] = []
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
        """Wait for the calls of methods that nobody registered, and refuse each; ends when the server stops."""
        while True:
            call = await _next_call(self, super()._request_call)
            _refused.inc()
            if len(self._refusing) < REFUSALS_LIMIT:
                self._refuse(call, *_UNKNOWN_METHOD)
            del call  # gRPC cancels a call that was not refused when its last reference goes

    async def _request_registered_call(self, method: bytes) -> Any:
        """Return the next call of a method; those beyond its limit are refused before they are read."""
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
            if len(self._refusing) < REFUSALS_LIMIT:
                name = self._refuse_with_error(call, method, ServerOverloaded())
                _log.warning("too many calls are open", method=name, limit=kind.limit)
            del call

    def _refuse_with_error(self, call: Any, method: bytes, error: AuthorityError) -> str:
        """Refuse a call of a method that is known, and return the method's name."""
        answer = error_table.answer(error)
        name = method.decode().rpartition("/")[2]
        RPC_ERRORS.labels(method=name, reason=answer.reason).inc()
        self._refuse(call, answer.code, answer.message, answer.trailing_metadata)
        return name

    def _refuse(self, call: Any, *answer: Any) -> None:
        async def refuse() -> None:
            # It was told, or has gone.
            with contextlib.suppress(cygrpc.AbortError, cygrpc.ExecuteBatchError):
                await _context(call).abort(*answer)

        refusing = asyncio.create_task(refuse())
        self._refusing.add(refusing)  # or else nothing would hold it
        refusing.add_done_callback(self._refusing.discard)


async def _next_call(server: _Acceptor, request: Any, *arguments: Any) -> Any:
    """Return the next call; one that broke off while it was taken on is none of the loop's business."""
    while True:
        try:
            return await _await_and_keep(request(*arguments), server.abandoned)
        except cygrpc._RequestCallError:
            if not server.is_running():
                raise


@types.coroutine
def _await_and_keep(request: Any, abandoned: list[object]) -> Generator[Any, None, Any]:
    """Await a coroutine of gRPC's, and keep it should the wait for it be cancelled.

    A loop that ends cancels who waits for calls, but not what is yet to be written into what they wait with.
    """
    while True:
        try:
            waiting = request.send(None)
        except StopIteration as done:
            return done.value
        try:
            yield waiting
        except asyncio.CancelledError:
            abandoned.append(request)
            raise


def _context(call: Any) -> Any:
    return cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())


def _with_request_timeout(handler: Handler) -> Handler:
    """Return a handler of calls that ask once and are answered once, which does not wait for ever to be asked."""
    behavior: Any = handler.unary_unary

    async def answer(_requests: object, context: Any) -> None:
        request = grpc.aio.EOF
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEYLESS_REQUEST_SECONDS):
                request = await context.read()
        if request is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came in time")
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
    """Return a server that serves registered methods alone, as all generated code registers its own.

    Args:
        package: The proto package whose methods ask for a key.
        interceptors: What sees each call that is taken on.
        options: gRPC's.
        calls_limit: How many calls of the package's methods that answer once may be open.
    """
    # gRPC asks nobody which class to take, and this one's arguments change from release to release.
    original, cygrpc.AioServer = cygrpc.AioServer, partial(_Acceptor, package, calls_limit)
    try:
        return grpc.aio.server(interceptors=interceptors, options=options)
    finally:
        cygrpc.AioServer = original
