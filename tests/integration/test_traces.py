"""Traces of a real app and a real server, in a collector that speaks OTLP."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from session_authority.v1 import session_service_pb2 as pb
from tests.integration import traces_app
from tests.support.collector import CLIENT, INTERNAL, SERVER, Collector, Received, collecting
from tests.support.postgresql import free_port
from tests.support.program import (
    Program,
    development_key_in,
    environment,
    serving,
    writers_held_up,
)

pytestmark = pytest.mark.both_hosts

SERVICE = "session_authority.v1.SessionService"
TRACEPARENT = "00-{0:032x}-{0:016x}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, collector: Collector, host: str) -> Iterator[Program]:
    collector.requests.clear()
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    with serving(tmp_path, settings=settings, asking_for_keys=True, host=host) as program:
        yield program


def run_app(server: Program, collector: Collector, folder: Path, **variables: str) -> str:
    """Run the app to its end, and stop the server. Return what the app printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", traces_app.__name__),
            *(server.address, f"127.0.0.1:{free_port()}"),
        ],
        env=environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_SERVICE_NAME="shop",
            SESSION_AUTHORITY_API_KEY=development_key_in(folder),
            **variables,
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert server.stop() == 0
    assert "Traceback" not in server.stderr
    return done.stdout


def test_a_trace_leads_from_the_app_through_each_call_to_the_server(
    server: Program, collector: Collector, tmp_path: Path
) -> None:
    printed = run_app(server, collector, tmp_path)
    spans = {each.place: each for each in collector.spans}
    assert {each.service for each in spans.values()} == {"shop", "session-authority"}
    calls = [each for each in spans.values() if each.span.kind == CLIENT]
    served = {each.parent: each for each in spans.values() if each.span.kind == SERVER}

    for call in calls:
        name = call.span.name
        attributes = call.attributes
        if attributes["rpc.response.status_code"] == "UNAVAILABLE":
            continue
        answer = served.pop(call.place)
        assert answer.span.name == name
        shared = {"rpc.system.name": "grpc", "rpc.method": name}
        host, port = server.address.split(":")
        peer = {"server.address": host, "server.port": int(port)}
        if name.endswith("CreateSession") and call.failed:
            status = {"rpc.response.status_code": "INVALID_ARGUMENT"}
            assert attributes == shared | peer | status | {"error.type": "INVALID_ARGUMENT"}
            reason = {"session_authority.error.reason": "INVALID_FIELD"}
            assert answer.attributes == shared | status | reason
        else:
            assert not call.failed, "a rejection is an answer"
            assert attributes == shared | peer | {"rpc.response.status_code": "OK"}
            assert answer.attributes == shared | {"rpc.response.status_code": "OK"}
        assert not answer.failed, "the caller's fault, not the server's"
    assert served == {}
    by_app = Counter(spans[call.parent].span.name for call in calls)
    assert by_app["async sign-in"] == by_app["sync sign-in"] == by_app["bad argument"] == 1
    assert "async visitor without a session" not in by_app

    check_visits(spans)
    check_outage(spans)
    secrets = [*printed.split(), traces_app.USER, traces_app.AGENT, traces_app.NOTE, "203.0.113."]
    secrets.append(development_key_in(tmp_path))
    exported = b"".join(request.SerializeToString() for request in collector.requests)
    assert [each for each in secrets if each.encode() in exported] == []


def check_visits(spans: dict[tuple[bytes, bytes], Received]) -> None:
    """Each visit has a span of its validation, which is the parent of its RPC or has a link to it."""
    for kind in ("async", "sync"):
        validations = [
            each
            for each in spans.values()
            if each.span.kind == INTERNAL
            and each.parent in spans
            and spans[each.parent].span.name.startswith(f"{kind} visit ")
        ]
        assert [each.span.name for each in validations] == ["SessionClient.validate"] * (
            traces_app.VISITS
        )
        calls = set()
        for each in validations:
            own = [call.place for call in spans.values() if call.parent == each.place]
            linked = [(link.trace_id, link.span_id) for link in each.span.links]
            (call,) = own + linked
            assert spans[call].span.kind == CLIENT
            assert spans[call].span.start_time_unix_nano >= each.span.start_time_unix_nano
            calls.add(call)
        if kind == "async":
            assert len(calls) == 1, "validations of one turn of the event loop share a call"


def check_outage(spans: dict[tuple[bytes, bytes], Received]) -> None:
    failed = [each for each in spans.values() if each.failed and each.service == "shop"]
    by_type = {each.attributes["error.type"]: each for each in failed}
    call = by_type["UNAVAILABLE"]
    assert [each.name for each in call.span.events] == ["retry"] * len(call.span.events)
    assert call.span.events
    assert spans[call.parent] is by_type["Unavailable"]


def test_what_the_app_does_not_sample_is_recorded_nowhere(
    server: Program, collector: Collector, tmp_path: Path
) -> None:
    run_app(server, collector, tmp_path, OTEL_TRACES_SAMPLER="always_off")
    assert not collector.requests


def test_faults_of_the_server_are_marked_and_callers_without_a_key_leave_no_span(
    server: Program, collector: Collector, tmp_path: Path
) -> None:
    key = development_key_in(tmp_path)
    request = pb.CreateSessionRequest(user_id="ada").SerializeToString()
    with grpc.insecure_channel(server.address) as channel, ExitStack() as stack:
        create: Any = channel.unary_unary(f"/{SERVICE}/CreateSession")

        def call(number: int, key: str, seconds: float) -> grpc.StatusCode:
            sent = (
                ("authorization", f"Bearer {key}"),
                ("traceparent", TRACEPARENT.format(number)),
            )
            with pytest.raises(grpc.RpcError) as caught:
                create(request, metadata=sent, timeout=seconds)
            code: grpc.StatusCode = caught.value.code()
            return code

        assert call(1, "wrong", 20) is grpc.StatusCode.UNAUTHENTICATED
        stack.enter_context(writers_held_up(tmp_path))
        assert call(2, key, 20) is grpc.StatusCode.UNAVAILABLE
        assert call(3, key, 0.2) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.stop() == 0
    found = {int.from_bytes(each.span.trace_id): each for each in collector.spans}
    assert sorted(found) == [2, 3]
    assert found[2].attributes["session_authority.error.reason"] == "STORE_UNAVAILABLE"
    for number, code in ((2, "UNAVAILABLE"), (3, "DEADLINE_EXCEEDED")):
        assert found[number].failed
        assert found[number].attributes["error.type"] == code
        assert found[number].span.parent_span_id == number.to_bytes(8)
