"""OpenTelemetry spans of a client's calls. Imported only by a client whose setting `tracing` is on.

Names and attributes follow https://opentelemetry.io/docs/specs/semconv/rpc/grpc. No attribute holds a token, an API key
or data of a user.
"""

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_authority._core import Call

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Starts the spans of one client with the app's tracer provider, which may be set later."""

    def __init__(self, address: str) -> None:
        """Name the authority's address in all spans of RPCs."""
        self._tracer = trace.get_tracer("session_authority")
        host, colon, port = address.rpartition(":")
        self._server: dict[str, str | int] = {"server.address": address}
        if colon and port.isdecimal() and "/" not in host:
            self._server = {"server.address": host.strip("[]"), "server.port": int(port)}

    @contextlib.contextmanager
    def validation(self) -> Iterator[Span]:
        """Start the span of one `validate` call, and make it the current span."""
        with self._tracer.start_as_current_span(
            "SessionClient.validate", record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                _fail(span, type(error).__qualname__)
                raise

    def rpc(self, call: Call) -> "RpcSpan":
        """Start the span of an RPC.

        Its parent is the current span. For a batch of validations, the parent is one of their spans, preferably a
        recorded one. The other validations' spans get a link to the new span.
        """
        waiting: Sequence[Span] = call.waiting_spans or ()
        parent = next((each for each in waiting if each.is_recording()), next(iter(waiting), None))
        context = Context() if call.waiting_spans is not None else None
        if parent is not None:
            context = trace.set_span_in_context(parent, context)
        name = call.method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, **self._server}
        span = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        for each in waiting:
            if each is not parent:
                each.add_link(span.get_span_context())
        return RpcSpan(span)


class RpcSpan:
    """The span of one RPC with all its attempts. A context manager that ends the span.

    Attributes:
        metadata: The metadata that carries the trace to the server.
    """

    def __init__(self, span: Span) -> None:
        self._span = span
        self._code = grpc.StatusCode.OK
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
        self.metadata = tuple(carrier.items())

    def retried(self, code: grpc.StatusCode) -> None:
        """Note an attempt that failed, and that another attempt follows."""
        self._span.add_event("retry", {"rpc.response.status_code": code.name})

    def failed(self, code: grpc.StatusCode) -> None:
        """Note the status of the last attempt."""
        self._code = code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An exception here is a cancellation, or a closed channel.
        code = self._code if exc_type is None else grpc.StatusCode.CANCELLED
        self._span.set_attribute("rpc.response.status_code", code.name)
        if code is not grpc.StatusCode.OK:
            _fail(self._span, code.name)
        self._span.end()


def _fail(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
