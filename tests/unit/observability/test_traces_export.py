import logging
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from session_authority_server.app import outputs
from session_authority_server.app.process import CannotStart
from session_authority_server.observability.traces_export import new_provider
from session_authority_server.rpc.methods import METHODS
from session_authority_server.rpc.tracing import Tracing
from tests.support.postgresql import free_port

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CLOSED = {ENDPOINT: f"http://127.0.0.1:{free_port()}"}


@pytest.fixture
def closed_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, CLOSED[ENDPOINT])


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {ENDPOINT: ""},
        CLOSED | {"OTEL_SDK_DISABLED": "True"},
        CLOSED | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_no_traces_are_exported_unless_the_environment_names_a_collector(
    variables: dict[str, str],
) -> None:
    with capture_logs() as logs:
        assert new_provider(variables) is None
    assert logs == []


def test_a_missing_package_and_another_protocol_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as logs:
        assert new_provider(CLOSED | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}) is None
        monkeypatch.setitem(
            sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None
        )
        assert new_provider(CLOSED) is None
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc" in logs[0]["event"]
    assert "the extra otel" in logs[1]["event"]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "session-authority"),
        ({"OTEL_SERVICE_NAME": "sessions"}, "sessions"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=logins"}, "logins"),
    ],
)
def test_operators_can_name_the_service(
    closed_collector: None,
    variables: dict[str, str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    provider = new_provider(CLOSED)
    assert provider is not None
    assert provider.resource.attributes["service.name"] == name
    provider.shutdown()


def test_a_header_that_cannot_be_parsed_is_not_logged(
    closed_collector: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "my secret key")
    with caplog.at_level(logging.DEBUG):
        provider = new_provider(CLOSED)
    assert provider is not None
    provider.shutdown()
    assert "Header format invalid" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "max_queue_size must be a positive integer"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "OTEL_EXPORTER_OTLP_COMPRESSION"),
        (ENDPOINT, "http://ada:s3cret@127.0.0.1:1", "leave out the user and the password"),
    ],
)
async def test_a_value_that_cannot_be_used_stops_the_start(
    closed_collector: None, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CannotStart, match=why) as caught:
        await outputs.traces().__aenter__()
    assert "s3cret" not in str(caught.value)


async def test_a_collector_that_does_not_answer_hardly_delays_the_end(
    closed_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "FLUSH_SECONDS", 0.1)
    (path, *_) = METHODS
    with capture_logs() as logs:
        async with outputs.traces() as tracing:
            assert isinstance(tracing, Tracing)
            tracing._start(path, None).end()
    assert [each["event"] for each in logs] == [
        "the collector does not answer; the last traces are lost"
    ]


def test_nothing_imports_opentelemetry_without_configuration() -> None:
    script = """
import sys
from session_authority import AsyncSessionClient, SessionClient
from session_authority_server.app import serving
from session_authority_server.observability.traces_export import new_provider
from session_authority_server.rpc.host import native

AsyncSessionClient(), SessionClient()
assert new_provider({}) is None
assert not [each for each in sys.modules if each.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", script], check=True)
