"""Spans of a server contain nothing that a caller chooses, except their parent."""

import pytest
from grpc import StatusCode
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from session_authority_server.rpc.authentication import Metadata
from session_authority_server.rpc.error_table import Answer
from session_authority_server.rpc.methods import METHODS
from session_authority_server.rpc.tracing import Tracing

PATH = next(path for path, method in METHODS.items() if not method.streams)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DENIED = Answer(StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING", "no", ())


def spans(metadata: Metadata, answer: Answer = DENIED) -> tuple[ReadableSpan, ...]:
    """Return the spans of a refused call."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Tracing(provider).refused(PATH, metadata, answer)
    return exporter.get_finished_spans()


def test_a_caller_chooses_nothing_in_a_span_but_its_parent() -> None:
    secret = "ses_secret"
    [span] = spans(
        (
            ("traceparent", PARENT),
            ("tracestate", f"vendor={secret}"),
            ("baggage", f"user={secret}"),
            ("x-request-id", secret),
        )
    )
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert secret not in span.to_json()
    assert not span.context.trace_state


@pytest.mark.parametrize(
    "value",
    ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:], "0" * 8_000, b"\xff"],
)
def test_a_forged_parent_is_ignored(value: str | bytes) -> None:
    [span] = spans((("traceparent", value),))
    assert span.parent is None


@pytest.mark.parametrize("code", [StatusCode.UNAUTHENTICATED, StatusCode.UNAVAILABLE])
def test_a_call_that_is_refused_before_its_key_is_known_leaves_no_span(code: StatusCode) -> None:
    assert spans((("traceparent", PARENT),), Answer(code, "REASON", "no", ())) == ()
