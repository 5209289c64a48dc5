"""The host that is built on grpcio. It supports TLS, unary methods and streams."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.rpc.authentication import current_caller
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.error_table import Answer, MalformedRequest, RequestTooLarge
from session_authority_server.rpc.host import CannotListen, Health, UnaryCalls, accept_loop
from session_authority_server.rpc.host.reflection import REFLECTION_SERVICES, reflection_handler
from session_authority_server.rpc.methods import (
    BATCH_REQUEST_LIMIT_BYTES,
    METHODS,
    REQUEST_LIMIT_BYTES,
    Method,
)
from session_authority_server.rpc.refused_calls import refusal

AUTHORITY = "session_authority.v1"
CALLS_PER_CONNECTION = 170
# gRPC itself refuses calls above this limit. It is high, because refusals leave less time for answers.
PENDING_CALLS = 25_000
METADATA_LIMIT_BYTES = 16 * 1024
IDLE_CONNECTION_SECONDS = 600
HANDSHAKE_SECONDS = 5
# How often a connection without a call may ping, and how many pings too many it may send.
PING_SECONDS = 10
PINGS_FORGIVEN = 2
# How many reset streams a connection may have in memory, per call that it may carry.
RESET_STREAMS_PER_CALL = 2
_ENDED_POLL_SECONDS = 0.5

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Stream: TypeAlias = "Callable[[Any, Context], Awaitable[None]]"


class GrpcioHost:
    """Serves unary RPCs and streams with grpc.aio."""

    name = "grpcio"

    def __init__(
        self,
        dispatcher: UnaryCalls,
        streams: Mapping[str, Stream],
        health_service: Health,
        *,
        credentials: grpc.ServerCredentials | None = None,
        share_port: bool = False,
        calls_per_connection: int = CALLS_PER_CONNECTION,
        package: str = AUTHORITY,
    ) -> None:
        """Serve RPCs.

        Args:
            dispatcher: Answers unary RPCs.
            streams: The handler of each stream, by its path.
            health_service: Reports whether the server serves.
            credentials: The server's certificate. None serves without TLS.
            share_port: Whether other processes may listen on the same port.
            calls_per_connection: How many calls and streams a connection carries at once.
            package: The proto package of the RPCs. The stricter limits of `accept_loop` apply to all others.
        """
        self._credentials = credentials
        self._server = accept_loop.server(
            package,
            interceptors=[_Admission(dispatcher, package)],
            options=_options(share_port, calls_per_connection),
        )
        handlers = {method.path: _unary(dispatcher, method) for method in dispatcher.unary}
        handlers |= {path: _stream(path, stream) for path, stream in streams.items()}
        for path, handler in handlers.items():
            service, name = path[1:].split("/")
            self._server.add_registered_method_handlers(service, {name: handler})
        health_pb2_grpc.add_HealthServicer_to_server(health_service, self._server)
        reflect = reflection_handler()
        for service in REFLECTION_SERVICES if package == AUTHORITY else ():
            self._server.add_registered_method_handlers(service, {"ServerReflectionInfo": reflect})

    def bind(self, address: str) -> str:
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise CannotListen(address) from error
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)

    async def ended(self) -> None:
        # Poll, because gRPC reports the end of its accept loop only after the last call has ended.
        with contextlib.suppress(Exception):  # gRPC has logged it
            while await self._server.wait_for_termination(_ENDED_POLL_SECONDS):
                pass


def _options(share_port: bool, calls_per_connection: int) -> list[tuple[str, int]]:
    """Return the options of gRPC's server."""
    return [
        ("grpc.so_reuseport", int(share_port)),
        # A little above our limit, so that the server itself refuses a request that is slightly too large.
        (
            "grpc.max_receive_message_length",
            BATCH_REQUEST_LIMIT_BYTES + REQUEST_LIMIT_BYTES,
        ),
        # A caller may send 64 KiB of a request before the server reads it. With this probe, gRPC would
        # raise that to 16 MiB for each call of a fast connection, even without an API key.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_metadata_size", METADATA_LIMIT_BYTES),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        ("grpc.max_concurrent_streams", calls_per_connection),
        # A reset stream uses memory until Python releases it. Without this limit, one connection that opens
        # and resets streams takes gigabytes. A client that keeps `calls_per_connection`
        # calls in flight has up to twice that number of streams in memory. The limit leaves a reserve, so gRPC
        # never refuses the calls of such a client.
        ("grpc.http.overload_protection", 1),
        (
            "grpc.http2.max_deallocating_streams",
            RESET_STREAMS_PER_CALL * calls_per_connection,
        ),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_SECONDS * 1_000),
        ("grpc.http2.max_ping_strikes", PINGS_FORGIVEN),
        ("grpc.max_connection_idle_ms", IDLE_CONNECTION_SECONDS * 1_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
    ]


class _Admission(grpc.aio.ServerInterceptor):
    """Refuses unauthorized callers before their requests are read."""

    def __init__(self, dispatcher: UnaryCalls, package: str) -> None:
        self._dispatcher = dispatcher
        self._package = f"/{package}."
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        path = details.method
        if not path.startswith(self._package):
            return await continuation(details)
        handler = self._handlers.get(path)
        if handler is None:
            handler = self._handlers[path] = await continuation(details)
        metadata = details.invocation_metadata
        try:
            # The handler runs in the same task, so it reads this value.
            current_caller.set(self._dispatcher.admit(path, metadata))
        except AuthorityError as error:
            return _refusing(partial(self._dispatcher.turn_away, path, metadata, error))
        return handler


async def _abort(context: Context, answer: Answer) -> NoReturn:
    await context.abort(answer.code, answer.message, answer.trailing_metadata)


def _refusing(turn_away: Callable[[Context], Answer]) -> Handler:
    async def refuse(_requests: object, context: Context) -> None:
        await _abort(context, turn_away(context))

    return grpc.stream_stream_rpc_method_handler(refuse)


def _unary(dispatcher: UnaryCalls, method: Method) -> Handler:
    async def behave(payload: bytes, context: Context) -> bytes:
        answered: asyncio.Future[bytes | Answer] = asyncio.get_running_loop().create_future()

        def reply(answer: bytes | Answer) -> None:
            # gRPC may already have cancelled `answered`. The `except` below then cancels the call.
            if not answered.done():
                answered.set_result(answer)

        tracing = dispatcher.tracing
        new_call = (
            Call
            if tracing is None
            else partial(tracing.new_call, tuple(context.invocation_metadata() or ()))
        )
        call = new_call(method, current_caller.get(), context.time_remaining(), reply, context)
        dispatcher.take(call, payload)
        try:
            answer = await answered
        except asyncio.CancelledError:
            call.cancel()
            raise
        if isinstance(answer, bytes):
            return answer
        return await _abort(context, answer)

    return grpc.unary_unary_rpc_method_handler(behave)


def _stream(path: str, behave: Stream) -> Handler:
    method = METHODS[path]
    parse = method.parse

    def deserialize(data: bytes) -> Any:
        """Parse a request. Return an error instead of raising it, because gRPC would answer INTERNAL."""
        if len(data) > REQUEST_LIMIT_BYTES:
            return RequestTooLarge(REQUEST_LIMIT_BYTES)
        try:
            return parse(data)
        except DecodeError:
            return MalformedRequest(f"{method.name}Request")

    async def run(requests: object, context: Context) -> None:
        try:
            await behave(requests, context)
        except Exception as error:  # noqa: BLE001 - any failure becomes a documented error
            key_id = current_caller.get().key_id
            await _abort(context, refusal(method.name, error, context, key_id))

    return grpc.stream_stream_rpc_method_handler(run, deserialize)
