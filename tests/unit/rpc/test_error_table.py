from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from session_authority.v1.error_reason_pb2 import ErrorReason
from session_authority_server.domain import errors
from session_authority_server.domain.errors import AuthorityError, InvalidRequest, Violation
from session_authority_server.rpc import error_table
from session_authority_server.rpc.error_table import TABLE, CallError, answer
from session_authority_server.watch.stream import Cause, TooManyStreams, WatchInterrupted

EXAMPLES: list[AuthorityError] = [
    InvalidRequest([Violation("user_id", "is empty; give one"), Violation("lifetime", "is odd")]),
    errors.RetryMismatch(),
    errors.SessionNotLive(),
    errors.SessionNotFound(),
    errors.AuthenticationTooOld(datetime(2026, 1, 1, tzinfo=UTC)),
    errors.ReauthenticationRequired(timedelta(minutes=5)),
    errors.ImpersonationForbidden(),
    errors.SessionLimitReached(100),
    errors.RetryStale(),
    errors.EventStreamsOff(),
    errors.EventStreamNotFound(),
    errors.EventStreamExists(),
    errors.VerificationTooSoon(timedelta(seconds=5)),
    errors.ReceiverLimitReached(1_000),
    errors.ClockWrong("this machine's clock is 2.0 s ahead of the database's"),
    errors.EndingsLost(),
    errors.ApiKeyMissing(),
    errors.ApiKeyInvalid(),
    errors.ApiKeyExpired(),
    errors.ApiKeyRevoked(),
    errors.PermissionMissing("create"),
    errors.StoreUnavailable("reading"),
    error_table.MalformedRequest("CreateSessionRequest"),
    error_table.RequestTooLarge(65_536),
    error_table.DeadlineExceeded(),
    error_table.ServerOverloaded(),
    error_table.TooManyRejectedTokens(timedelta(seconds=7)),
    *map(WatchInterrupted, Cause),
    TooManyStreams(1_000),
    error_table.UnexpectedFailure(),
]


def _kinds(root: type[AuthorityError]) -> Iterator[type[AuthorityError]]:
    for kind in root.__subclasses__():
        if kind.__module__.startswith("session_authority_server."):
            yield kind
            yield from _kinds(kind)


def _status(error: AuthorityError) -> bytes:
    value = dict(answer(error).trailing_metadata)["grpc-status-details-bin"]
    assert isinstance(value, bytes)
    return value


def _details(error: AuthorityError) -> tuple[ErrorInfo, BadRequest, RetryInfo]:
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    value = _status(error)
    for detail in Status.FromString(value).details:
        assert detail.Unpack(info) or detail.Unpack(bad_request) or detail.Unpack(retry)
    return info, bad_request, retry


def test_every_error_that_can_be_raised_has_a_row() -> None:
    # A base class is never raised itself.
    assert set(_kinds(AuthorityError)) - {CallError} == set(TABLE)


def test_every_documented_reason_is_used_by_exactly_one_row() -> None:
    used = [f"ERROR_REASON_{row.reason}" for row in TABLE.values()]
    assert sorted(used) == sorted(set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"})


def test_every_row_of_the_table_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES} == set(TABLE)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_status_and_details_of_an_answer_agree(error: AuthorityError) -> None:
    answered = answer(error)
    status = Status.FromString(_status(error))
    info, _, _ = _details(error)

    assert answered.code is not grpc.StatusCode.OK
    assert (status.code, status.message) == (answered.code.value[0], answered.message)
    assert (info.reason, info.domain) == (answered.reason, "session-authority")
    assert f"ERROR_REASON_{answered.reason}" in ErrorReason.keys()  # noqa: SIM118 - no mapping
    assert answered.message


def test_only_errors_that_a_retry_can_fix_advise_one() -> None:
    advised = {type(error) for error in EXAMPLES if _details(error)[2].HasField("retry_delay")}
    assert advised == {
        errors.StoreUnavailable,
        errors.ClockWrong,
        errors.EndingsLost,
        error_table.DeadlineExceeded,
        error_table.ServerOverloaded,
        error_table.TooManyRejectedTokens,
        WatchInterrupted,
        TooManyStreams,
        errors.VerificationTooSoon,
    }


def test_overload_is_the_only_exhausted_resource_that_clients_retry() -> None:
    exhausted = [
        each for each in EXAMPLES if answer(each).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    ]
    repeated = {
        type(each)
        for each in exhausted
        if ("grpc-retry-pushback-ms", "-1") not in answer(each).trailing_metadata
    }
    assert len(exhausted) > 3
    assert repeated == {error_table.ServerOverloaded}


def test_a_caller_with_too_many_bad_tokens_gets_a_retry_delay() -> None:
    _, _, retry = _details(error_table.TooManyRejectedTokens(timedelta(seconds=7)))
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=7)


def test_an_invalid_field_is_named_with_a_remedy() -> None:
    _, bad_request, _ = _details(EXAMPLES[0])
    assert [(each.field, each.description) for each in bad_request.field_violations] == [
        ("user_id", "is empty; give one"),
        ("lifetime", "is odd"),
    ]


def test_limits_are_sent_as_numbers() -> None:
    assert _details(errors.SessionLimitReached(7))[0].metadata == {"limit": "7"}
    old = errors.ReauthenticationRequired(timedelta(minutes=5))
    assert _details(old)[0].metadata == {"max_authentication_age_seconds": "300"}
    assert _details(error_table.RequestTooLarge(9))[0].metadata == {"limit_bytes": "9"}


def test_a_missing_permission_is_named() -> None:
    assert _details(errors.PermissionMissing("create"))[0].metadata == {"permission": "create"}


def test_an_error_is_never_larger_than_clients_accept() -> None:
    worst = Violation(
        f"attributes[{'é' * 32}]", "has a control character in the key or a null " * 3
    )
    for count in (1, 8, 9, 1_000):
        answered = answer(InvalidRequest([worst] * count))
        _, bad_request, _ = _details(InvalidRequest([worst] * count))
        size = len(quote(answered.message)) + sum(
            len(key) + len(value) * 4 / 3 for key, value in answered.trailing_metadata
        )
        assert size < 8 * 1024
        assert len(bad_request.field_violations) == min(count, 8)
    assert answered.message.endswith("; and 992 more")


@pytest.mark.parametrize("cause", Cause)
def test_the_error_of_an_interrupted_stream_has_its_cause(cause: Cause) -> None:
    assert _details(WatchInterrupted(cause))[0].metadata == {"cause": cause.name}


def test_the_error_about_too_many_streams_has_the_limit() -> None:
    assert _details(TooManyStreams(9))[0].metadata == {"limit": "9"}
