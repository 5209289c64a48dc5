"""A collector of traces: a gRPC server with the TraceService of OTLP, which keeps what it receives.

`python -m tests.support.collector` runs one that keeps nothing, and prints its endpoint.
"""

import contextlib
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span

INTERNAL, SERVER, CLIENT = Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


@dataclass(frozen=True)
class Received:
    """A span as received, with the name of the service that sent it."""

    service: str
    span: Span

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            each.key: each.value.string_value or each.value.int_value
            for each in self.span.attributes
        }

    @property
    def failed(self) -> bool:
        return self.span.status.code == self.span.status.STATUS_CODE_ERROR

    @property
    def place(self) -> tuple[bytes, bytes]:
        return self.span.trace_id, self.span.span_id

    @property
    def parent(self) -> tuple[bytes, bytes]:
        return self.span.trace_id, self.span.parent_span_id


class Collector(service.TraceServiceServicer):
    """Keeps the requests that it receives.

    Attributes:
        endpoint: The value of OTEL_EXPORTER_OTLP_ENDPOINT.
        requests: The requests, in their order.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: deque[pb.ExportTraceServiceRequest] = deque()

    def Export(self, request: Any, context: object) -> pb.ExportTraceServiceResponse:  # noqa: N802
        self.requests.append(request)
        return pb.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Received]:
        return [
            Received(_service(resource), span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _service(resource: Any) -> str:
    (name,) = (
        each.value.string_value
        for each in resource.resource.attributes
        if each.key == "service.name"
    )
    return str(name)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


if __name__ == "__main__":
    with collecting() as running:
        running.requests = deque(maxlen=0)
        sys.stdout.write(f"{running.endpoint}\n")
        sys.stdout.flush()
        signal.pause()
