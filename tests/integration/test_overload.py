"""A server that has as much to do as it takes on says so, and to nobody else's harm."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from session_authority import (
    Rejection,
    RejectionReason,
    SessionClient,
    SessionNotLive,
    ValidationRequest,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.domain import token as tokens
from session_authority_server.domain.clock import SystemClock
from tests.support.program import serving
from tests.support.raw_http2 import RawConnection

pytestmark = pytest.mark.both_hosts


@contextmanager
def _writes_held_up(folder: Path) -> Iterator[None]:
    path = folder / "session-authority.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _details(error: Any) -> tuple[ErrorInfo, RetryInfo]:
    info, retry = ErrorInfo(), RetryInfo()
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                assert detail.Unpack(info) or detail.Unpack(retry)
    return info, retry


def _unknown_token() -> str:
    return tokens.mint(SystemClock().now()).encode()


def test_a_call_beyond_those_that_the_store_holds_up_is_refused_with_reason_and_advice(
    tmp_path: Path,
) -> None:
    settings = {"SESSION_AUTHORITY_MAX_IN_FLIGHT_CALLS": "2"}
    with serving(tmp_path, settings=settings) as program:
        options = [("grpc.enable_retries", 0)]
        with (
            grpc.insecure_channel(program.address, options) as channel,
            _writes_held_up(tmp_path),
        ):
            stub = SessionServiceStub(channel)
            calls = [
                stub.CreateSession.future(pb.CreateSessionRequest(user_id="ada"), timeout=10)
                for _ in range(4)
            ]
            first = next(call for call in _as_they_end(calls))
            assert first.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            info, retry = _details(first)
            assert (info.reason, info.domain) == ("SERVER_OVERLOADED", "session-authority")
            assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        outcomes = [call.code() for call in calls]
        assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
        with SessionClient(program.address) as client:
            assert client.validate(client.create("ada").token)
        assert program.stderr.count("overloaded; refusing calls") == 1


@pytest.mark.parametrize(("settings", "calls"), [({}, 170), ({"CALLS_PER_CONNECTION": "500"}, 500)])
def test_a_connection_carries_as_many_calls_as_the_operator_says(
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


def test_an_empty_bucket_refuses_unknown_tokens_and_never_a_good_one(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_REJECTED_TOKENS_PER_MINUTE": "2"}
    with (
        serving(tmp_path, settings=settings) as program,
        SessionClient(program.address) as client,
        grpc.insecure_channel(program.address) as channel,
    ):
        stub = SessionServiceStub(channel)
        token = client.create("ada").token
        ended = client.create("ada").token
        client.sign_out(ended)
        bad = [_question(_unknown_token()) for _ in range(4)]

        # A call counts once, however many unknown tokens it presents.
        assert not client.validate(_unknown_token())
        assert len(_batch(stub, bad)) == 4
        with pytest.raises(grpc.RpcError) as caught:
            _batch(stub, bad)
        info, retry = _details(caught.value)
        assert info.reason == "TOO_MANY_REJECTED_TOKENS"
        assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 30
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListSessions(pb.ListSessionsRequest(session_token=_unknown_token()))
        assert _details(caught.value)[0].reason == "TOO_MANY_REJECTED_TOKENS"

        assert client.validate(token)
        assert client.list(token)
        known = [_question(token.reveal()), _question(ended.reveal()), *bad]
        accepted, signed_out, *others = _batch(stub, known)
        assert accepted.session.user_id == "ada"
        assert signed_out.rejection.reason == pb.REJECTION_REASON_SIGNED_OUT
        assert {each.rejection.reason for each in others} == {pb.REJECTION_REASON_NOT_FOUND}
        client.reauthenticate(token)
        client.create("grace")
        client.sign_out(token)


def test_a_malformed_token_costs_nothing_from_the_bucket(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_REJECTED_TOKENS_PER_MINUTE": "1"}
    mistyped = _unknown_token()[:-1] + "!"
    with serving(tmp_path, settings=settings) as program, SessionClient(program.address) as client:
        for _ in range(5):
            for text in ("ses_", "x", mistyped, "ses_" + "0" * 70):
                assert client.validate(text) == Rejection(RejectionReason.NOT_FOUND)
                with pytest.raises(SessionNotLive) as caught:
                    client.list(text)
                assert caught.value.reason == "SESSION_NOT_LIVE"
        assert client.validate(_unknown_token()) == Rejection(RejectionReason.NOT_FOUND)
        assert client.validate(_unknown_token()) == Rejection(RejectionReason.UNKNOWN)
        assert client.validate("ses_") == Rejection(RejectionReason.NOT_FOUND)


@pytest.mark.parametrize("near_cache", [False, True])
def test_the_client_takes_the_refusal_for_a_rejection_that_keeps_the_cookie(
    tmp_path: Path, near_cache: bool
) -> None:
    settings = {"SESSION_AUTHORITY_REJECTED_TOKENS_PER_MINUTE": "1"}
    with (
        serving(tmp_path, settings=settings) as program,
        SessionClient(program.address, near_cache=near_cache) as client,
    ):
        assert client.validate(_unknown_token()) == Rejection(RejectionReason.NOT_FOUND)
        kept = Rejection(RejectionReason.UNKNOWN)
        assert client.validate(_unknown_token()) == kept
        several = [ValidationRequest(_unknown_token()) for _ in range(3)]
        assert client.validate_many(several) == [kept] * 3
        with pytest.raises(SessionNotLive) as caught:
            client.list(_unknown_token())
        assert caught.value.reason == "TOO_MANY_REJECTED_TOKENS"
        assert client.validate(client.create("ada").token)


def _question(token: str) -> pb.ValidateSessionRequest:
    return pb.ValidateSessionRequest(session_token=token)


def _batch(
    stub: SessionServiceStub, questions: list[pb.ValidateSessionRequest]
) -> list[pb.ValidateSessionResponse]:
    batch = pb.BatchValidateSessionsRequest(requests=questions)
    return list(stub.BatchValidateSessions(batch, timeout=10).responses)


def test_a_token_of_an_ended_session_is_not_held_against_who_presents_it(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_REJECTED_TOKENS_PER_MINUTE": "1"}
    with serving(tmp_path, settings=settings) as program, SessionClient(program.address) as client:
        token = client.create("ada").token
        client.sign_out(token)
        for _ in range(5):
            outcome = client.validate(token)
            assert not outcome
            assert outcome.reason is RejectionReason.SIGNED_OUT
