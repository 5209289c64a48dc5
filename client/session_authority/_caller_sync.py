# Generated from _caller_aio.py by `make sync`. Do not edit.
"""Calls to the authority from threads: settings, connections, retries and errors."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakSet

import grpc

from session_authority import _batching, _core
from session_authority._batching_sync import Batcher
from session_authority._channel import WITHOUT_RETRIES, channel_options
from session_authority._concurrency_sync import (
    CHANNEL_CLOSED,
    NextPing,
    Place,
    Stream,
    connect,
    here,
    is_own_cancellation,
)
from session_authority._error_details import error_of
from session_authority._outage_log import OutageLog
from session_authority._retries import Attempts, RetryBudget
from session_authority._settings import DEFAULT_ADDRESS, DEFAULT_DEADLINE_SECONDS, Settings
from session_authority.errors import ClientClosed, InvalidArgument, SessionAuthorityError
from session_authority.near_cache import operations
from session_authority.near_cache.core import Due
from session_authority.near_cache.driver_sync import Driver
from session_authority.near_cache.options import NearCache, NearCacheStatistics
from session_authority.near_cache.stream import WATCH_METHOD
from session_authority.session import Rejection, Session, ValidationRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from session_authority._tracing import RpcSpan

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Connection:
    """A channel, which connects at its first call, and its batcher, retry budget and methods."""

    channel: grpc.Channel
    batcher: Batcher
    retries: RetryBudget = field(default_factory=RetryBudget)
    methods: dict[str, "grpc.UnaryUnaryMultiCallable[bytes, bytes]"] = field(default_factory=dict)

    def method(self, path: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
        """Return the callable for a method. Each is created once."""
        found = self.methods.get(path)
        if found is None:
            found = self.methods[path] = self.channel.unary_unary(path)
        return found

    def close(self) -> None:
        """Close the channel, which ends the calls in flight."""
        self.channel.close()
        self.batcher.close()


class Caller:
    """The part of a client below its methods: settings, connections and calls."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str | None = None,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        channel_credentials: grpc.ChannelCredentials | None = None,
        client_certificate: bytes | None = None,
        client_key: bytes | None = None,
        near_cache: NearCache | bool = False,
        batching: bool = True,
        tracing: bool = False,
    ) -> None:
        """Check the settings. The client connects at its first call.

        Args:
            address: Where the authority listens, as `host:port` or another target in gRPC's syntax. All
                addresses that a name resolves to share the load.
            api_key: The key that identifies this program to the authority.
            deadline_seconds: How long one RPC may take, including its retries.
            tls: Whether to encrypt. By default, only connections within this host are not encrypted: to a
                loopback address or a Unix socket. Pass False on a network that is already encrypted.
            root_certificates: The certificate authorities to trust, as PEM. The default is the system's.
            channel_credentials: Credentials for the channel, instead of `tls` and the certificates.
            client_certificate: The certificate that this program presents if the authority asks for one, as
                PEM. The intermediate certificates follow it.
            client_key: The private key of that certificate, as PEM without a passphrase.
            near_cache: Whether to answer from memory for as long as the authority permits, or the settings of
                the near cache (docs/use/near-cache.md). The API key must permit watching.
            batching: Whether concurrent calls of `validate` share one RPC.
            tracing: Whether to record OpenTelemetry spans with the app's tracer provider (docs/operate/traces.md).

        Raises:
            ConfigurationError: An argument has no usable value.
        """
        self._settings = Settings(
            address=address,
            api_key=api_key,
            deadline_seconds=deadline_seconds,
            tls=tls,
            root_certificates=root_certificates,
            channel_credentials=channel_credentials,
            client_certificate=client_certificate,
            client_key=client_key,
            near_cache=(NearCache() if near_cache else None)
            if isinstance(near_cache, bool)
            else near_cache,
            batching=batching,
            tracing=tracing,
        )
        self._tracing = self._settings.new_tracing()
        self._outages = OutageLog(self._settings.address)
        self._connections: dict[Place, Connection] = {}
        self._closed = False
        self._near: Driver | None = None
        if self._settings.near_cache is not None:
            self._near = self._new_near(self._settings.near_cache)
            _with_near_cache.add(self)

    @classmethod
    def from_env(cls, *, near_cache: NearCache | bool = False) -> Self:
        """Return a client with the settings of the environment. A variable that is unset or empty has its default.

        - `SESSION_AUTHORITY_ADDRESS`: `host:port` (default 127.0.0.1:50551)
        - `SESSION_AUTHORITY_API_KEY`: the API key
        - `SESSION_AUTHORITY_DEADLINE_SECONDS`: seconds (default 5)
        - `SESSION_AUTHORITY_TLS`: "on" or "off" (default "on", except for a local address)
        - `SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES`: path of a PEM file
        - `SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE`: path of a PEM file
        - `SESSION_AUTHORITY_TLS_CLIENT_KEY`: path of a PEM file
        - `SESSION_AUTHORITY_NEAR_CACHE`: "on" or "off" (default "off")
        - `SESSION_AUTHORITY_BATCHING`: "on" or "off" (default "on")
        - `SESSION_AUTHORITY_TRACING`: "on" or "off" (default "off")

        Args:
            near_cache: The near cache that the program needs. It outranks `SESSION_AUTHORITY_NEAR_CACHE`.

        Raises:
            ConfigurationError: A variable has no usable value; the message names it.
        """
        settings = Settings.from_env(os.environ)
        return cls(
            settings.address,
            api_key=settings.api_key,
            deadline_seconds=settings.deadline_seconds,
            tls=settings.tls,
            root_certificates=settings.root_certificates,
            client_certificate=settings.client_certificate,
            client_key=settings.client_key,
            near_cache=near_cache or settings.near_cache or False,
            batching=settings.batching,
            tracing=settings.tracing,
        )

    @property
    def address(self) -> str:
        """The address of the authority, as given."""
        return self._settings.address

    @property
    def near_cache_statistics(self) -> NearCacheStatistics | None:
        """The statistics of the near cache in this process; None without a near cache."""
        near = self._near
        return None if near is None else near.core.statistics(near.now())

    def close(self) -> None:
        """Close the connection. Calls in flight raise `ClientClosed`.

        A second call does nothing.
        """
        self._closed = True
        if self._near is not None:
            self._near.core.close()
        connection = self._connections.pop(here(), None)
        if connection is not None:
            connection.close()
        if self._near is not None:
            self._near.stop()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.address!r})"

    def run_operation(self, operation: _core.Operation[_Result]) -> _Result:
        """Make the calls of an operation and return its result. For the library's own integrations.

        The error of a failed call is thrown into the operation, which may handle it and continue.
        """
        self._check_open()
        try:
            call = next(operation)
            while True:
                try:
                    answer = self._send(call)
                except SessionAuthorityError as failure:
                    self._outages.failed(failure)
                    call = operation.throw(failure)
                else:
                    call = operation.send(answer)
        except StopIteration as done:
            result: _Result = done.value
            return result
        finally:
            operation.close()  # an error's traceback could keep it open

    def new_channel(self) -> grpc.Channel:
        """Return a new channel to the authority. It carries no API key. For the library's own integrations."""
        settings, credentials = self._settings, self._settings.credentials()
        options = [*channel_options(settings), WITHOUT_RETRIES]
        if credentials is None:
            return grpc.insecure_channel(settings.address, options)
        return grpc.secure_channel(settings.address, credentials, options)

    @property
    def caller_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata with the API key of this client. For the library's own integrations."""
        return self._settings.metadata

    def _validate(self, request: ValidationRequest) -> Session | Rejection:
        """Validate one token, in one call with the other questions that wait."""
        if self._tracing is None or not request.token:  # no token, no call
            return self._ask(request)
        with self._tracing.validation() as span:
            return self._ask(request, span)

    def _ask(self, request: ValidationRequest, span: "Span | None" = None) -> Session | Rejection:
        message = _core.validation(request)
        if message.session_token and _batching.may_be_batched(message):
            outcome = self._connection().batcher.ask(message, span)
            if not isinstance(outcome, Exception):
                return outcome
            if not isinstance(outcome, InvalidArgument):
                raise _batching.own_copy(outcome)
            # At least one question of the batch is invalid, maybe not this one. Send this one in a call of its own.
        return self.run_operation(_core.validate(request))

    def _repeated(self, connection: Connection, call: _core.Call) -> bytes | SessionAuthorityError:
        """Make a call, and retry it until it is answered or no further attempt is allowed."""
        metadata = self._settings.metadata
        if self._tracing is None:
            return self._attempt(connection, call, metadata)
        with self._tracing.rpc(call) as span:
            return self._attempt(connection, call, (*metadata, *span.metadata), span)

    def _attempt(
        self,
        connection: Connection,
        call: _core.Call,
        metadata: tuple[tuple[str, str], ...],
        span: "RpcSpan | None" = None,
    ) -> bytes | SessionAuthorityError:
        method = connection.method(call.method)
        attempts = Attempts(connection.retries, self._settings.deadline_seconds)
        while True:
            try:
                answer = method(call.payload, timeout=attempts.seconds_left(), metadata=metadata)
            except grpc.RpcError as error:
                failure, code = error_of(error), error.code()
                pause = attempts.pause_after(error, failure)
            else:
                connection.retries.answered()
                return answer
            if pause is None or self._closed:
                if span is not None:
                    span.failed(code)
                return failure
            if span is not None:
                span.retried(code)
            time.sleep(pause)

    def _send(self, call: _core.Call) -> bytes:
        connection = self._connection()
        failure: SessionAuthorityError
        try:
            answer = self._repeated(connection, call)
            if isinstance(answer, bytes):
                return answer
            failure = answer
        except CHANNEL_CLOSED as error:
            if not self._closed or is_own_cancellation(error):
                raise
            failure = ClientClosed()
        finally:
            if self._near is not None:
                operations.forget_changed(self._near.core, call)
        if self._closed:
            failure = ClientClosed()
        # Raise outside of `except`. Otherwise the exception's context would be gRPC's error, which may quote a secret.
        try:
            raise failure
        finally:
            del failure  # breaks the reference cycle between the error and this frame

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    def _connection(self) -> Connection:
        # Never close a connection that was inherited from a parent process: that would write to the parent's sockets.
        found = self._connections.get(here())
        if found is None:
            found = connect(self._connections, self._new_connection, self._check_open)
        return found

    def _new_connection(self) -> Connection:
        settings, near = self._settings, self._near
        exchange = _batching.ask if near is None else partial(operations.ask, near.core, near.now)
        batcher = Batcher(self.run_operation, exchange, settings.deadline_seconds)
        return Connection(self.new_channel(), batcher)

    # For the near cache.

    def forget_in_child(self) -> None:
        """Replace the near cache by an empty one, in a process that has just been forked."""
        if self._settings.near_cache is not None:
            self._near = self._new_near(self._settings.near_cache)

    def _new_near(self, settings: NearCache) -> Driver:
        return Driver(settings, self._watch, self._outages.failed, self._report, self._recheck)

    def _watch(self, next_ping: NextPing) -> Stream:
        self._check_open()
        method: grpc.StreamStreamMultiCallable[bytes, bytes]
        method = self._connection().channel.stream_stream(WATCH_METHOD)
        try:
            return Stream(method, self._settings.metadata, next_ping)
        except CHANNEL_CLOSED:
            raise ClientClosed from None

    def _report(self, due: Due) -> None:
        # If the client has just been closed, the session that was found is still the answer.
        with contextlib.suppress(ClientClosed):
            self._connection().batcher.report(operations.report_of(due))

    def _recheck(self, tokens: Sequence[str]) -> None:
        """Ask about watched tokens. The answers go to the near cache."""
        if self._near is not None:
            self._near.follow()
        with contextlib.suppress(ClientClosed):
            batcher = self._connection().batcher
            for token in tokens:
                batcher.report(operations.passive_question(token).message)


_with_near_cache: WeakSet[Caller] = WeakSet()


def _forget_in_child() -> None:
    for client in list(_with_near_cache):
        client.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
