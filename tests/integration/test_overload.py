"""A server at its limit refuses further calls, and answers the others."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from session_authority import (
    SessionClient,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.program import serving, writers_held_up
from tests.support.raw_http2 import RawConnection
from tests.support.status import details_of, reason_of

pytestmark = pytest.mark.both_hosts


def test_a_call_over_the_limit_is_refused_with_a_reason_and_a_retry_delay(
    tmp_path: Path,
) -> None:
    settings = {"SESSION_AUTHORITY_MAX_IN_FLIGHT_CALLS": "2"}
    with serving(tmp_path, settings=settings) as program:
        options = [("grpc.enable_retries", 0)]
        with (
            grpc.insecure_channel(program.address, options) as channel,
            writers_held_up(tmp_path),
        ):
            stub = SessionServiceStub(channel)
            calls = [
                stub.CreateSession.future(pb.CreateSessionRequest(user_id="ada"), timeout=10)
                for _ in range(4)
            ]
            first, _second = islice(_as_they_end(calls), 2)
            assert first.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(first) == "SERVER_OVERLOADED"
            assert details_of(first, RetryInfo).retry_delay.ToTimedelta().total_seconds() > 0
        outcomes = [call.code() for call in calls]
        assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
        with SessionClient(program.address) as client:
            assert client.validate(client.create("ada").token)
        assert program.stderr.count("overloaded; refusing calls") == 1


@pytest.mark.parametrize(("settings", "calls"), [({}, 170), ({"CALLS_PER_CONNECTION": "500"}, 500)])
def test_a_connection_carries_as_many_calls_as_configured(
    tmp_path: Path, settings: dict[str, str], calls: int
) -> None:
    named = {f"SESSION_AUTHORITY_{name}": value for name, value in settings.items()}
    with serving(tmp_path, settings=named) as program, RawConnection(program.address) as raw:
        max_concurrent_streams = b"\x00\x03" + calls.to_bytes(4)
        raw.wait_for(max_concurrent_streams)


def _as_they_end(calls: list[Any]) -> Iterator[Any]:
    left = list(calls)
    while left:
        for call in [each for each in left if each.done()]:
            left.remove(call)
            yield call
