"""The export of traces with OpenTelemetry, as its standard variables configure it."""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "grpc"
# This logger quotes a header of OTEL_EXPORTER_OTLP_HEADERS if the SDK can't parse it. The header may hold a key.
_HEADER_PARSER = "opentelemetry.util.re"

_log = structlog.get_logger("session_authority")


def new_provider(environ: Mapping[str, str]) -> "TracerProvider | None":
    """Return a provider that exports spans to the collector; None if traces are off.

    The SDK reads the other OTEL variables from the environment of the process.

    Raises:
        ValueError: If the SDK cannot use a variable.
    """
    if not _is_wanted(environ):
        return None
    if "@" in _first(environ, _ENDPOINTS):
        # The exporter can't use them, and its log lines would quote them.
        raise ValueError(
            f"{' or '.join(_ENDPOINTS)} has an @; leave out the user and the password, and set OTEL_EXPORTER_OTLP_HEADERS"
        )
    protocol = _first(environ, _PROTOCOLS) or _PROTOCOL
    if protocol != _PROTOCOL:
        _log.warning(
            "no traces are exported: the server speaks only gRPC to collectors; set "
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc, and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to the collector's gRPC port",
            protocol=protocol,
        )
        return None
    try:
        return _provider()
    except ImportError:
        _log.warning(
            "no traces are exported: OpenTelemetry is not installed; install session-authority with the extra otel, or "
            "set OTEL_TRACES_EXPORTER=none"
        )
        return None
    except Exception as error:
        raise ValueError(str(error)) from error


def _is_wanted(environ: Mapping[str, str]) -> bool:
    return (
        bool(_first(environ, _ENDPOINTS))
        and environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        and (environ.get("OTEL_TRACES_EXPORTER") or "otlp") == "otlp"
    )


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")


def _provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger(_HEADER_PARSER).filters[:] = [_without_header]
    resource = Resource({"service.version": version("session-authority")}).merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "session-authority"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _without_header(record: logging.LogRecord) -> bool:
    record.args = ("(hidden)",)
    return True
