"""OpenTelemetry spans of unary calls. Imported only by a server that exports traces.

Names, attributes and statuses follow https://opentelemetry.io/docs/specs/semconv/rpc/grpc. No attribute holds a token,
an API key or data of a user.
"""

import time
from collections.abc import Callable

from grpc import StatusCode
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from session_authority_server.rpc.authentication import Caller, Metadata
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.error_table import Answer
from session_authority_server.rpc.methods import METHODS, Method
from session_authority_server.rpc.refused_calls import Origin

# The statuses that are faults of the server, according to the conventions.
FAULTS = frozenset(
    (
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    )
)
# A caller may cancel a call at its deadline, a moment before the deadline passes here.
_MARGIN_SECONDS = 0.05
# `tracestate` is not read: callers choose its text, and it would make every span longer by up to 8 KiB.
_HEADER = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()
_ROOT = Context()
_NAMES = {path: path.removeprefix("/") for path in METHODS}
_ATTRIBUTES = {
    path: {"rpc.system.name": "grpc", "rpc.method": name} for path, name in _NAMES.items()
}


class Tracing:
    """Starts a span for each unary call, as the child of the caller's span."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("session_authority_server")

    def new_call(
        self,
        metadata: Metadata,
        method: Method,
        caller: Caller,
        seconds_left: float | None,
        reply: Callable[[bytes | Answer], object],
        origin: Origin,
    ) -> Call:
        """Return a call that has just arrived."""
        span = self._start(method.path, metadata)
        if not span.is_recording():
            return Call(method, caller, seconds_left, reply, origin)
        return _TracedCall(span, method, caller, seconds_left, reply, origin)

    def refused(self, path: str, metadata: Metadata, answer: Answer) -> None:
        """Record a call that authentication refused.

        Without a valid API key, nothing is recorded. Otherwise anyone could make the server export spans. Only a call
        without the permission has a valid key: the other refusals come before the key is known.
        """
        method = METHODS.get(path)
        if method is None or method.streams or answer.code is not StatusCode.PERMISSION_DENIED:
            return
        span = self._start(path, metadata)
        _end(span, answer.code, answer.reason)

    def _start(self, path: str, metadata: Metadata) -> Span:
        carrier = {
            key: value for key, value in metadata or () if key == _HEADER and isinstance(value, str)
        }
        parent = _PROPAGATOR.extract(carrier) if carrier else _ROOT
        return self._tracer.start_span(_NAMES[path], parent, SpanKind.SERVER, _ATTRIBUTES[path])


class _TracedCall(Call):
    """A call with a span, which ends when the call is answered or cancelled."""

    __slots__ = ("_span",)

    def __init__(
        self,
        span: Span,
        method: Method,
        caller: Caller,
        seconds_left: float | None,
        reply: Callable[[bytes | Answer], object],
        origin: Origin,
    ) -> None:
        super().__init__(method, caller, seconds_left, reply, origin)
        self._span = span

    def answer(self, answer: bytes | Answer) -> None:
        if not self.finished:
            if isinstance(answer, bytes):
                _end(self._span, StatusCode.OK)
            else:
                _end(self._span, answer.code, answer.reason)
        super().answer(answer)

    def cancel(self) -> None:
        if not self.finished:
            elapsed = time.perf_counter() - self.arrived
            late = self.seconds_left is not None and elapsed > self.seconds_left - _MARGIN_SECONDS
            _end(self._span, StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED)
        super().cancel()


def _end(span: Span, code: StatusCode, reason: str = "") -> None:
    span.set_attribute("rpc.response.status_code", code.name)
    if reason:
        span.set_attribute("session_authority.error.reason", reason)
    if code in FAULTS:
        span.set_attribute("error.type", code.name)
        span.set_status(trace.StatusCode.ERROR)
    span.end()
