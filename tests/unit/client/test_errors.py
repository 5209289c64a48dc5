import traceback
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import session_authority as sa
from session_authority.v1.error_reason_pb2 import ErrorReason
from tests.support.fake_authority import TOKEN, FakeAuthority, Fault, fault
from tests.unit.client.conftest import Twin

pytestmark = pytest.mark.usefixtures("brief_retries")

Code = grpc.StatusCode

BY_REASON: dict[str, tuple[grpc.StatusCode, type[sa.SessionAuthorityError]]] = {
    "INVALID_FIELD": (Code.INVALID_ARGUMENT, sa.InvalidArgument),
    "MALFORMED_REQUEST": (Code.INVALID_ARGUMENT, sa.InvalidArgument),
    "REQUEST_TOO_LARGE": (Code.RESOURCE_EXHAUSTED, sa.RequestTooLarge),
    "SESSION_NOT_LIVE": (Code.UNAUTHENTICATED, sa.SessionNotLive),
    "SESSION_NOT_FOUND": (Code.NOT_FOUND, sa.SessionNotFound),
    "REAUTHENTICATION_REQUIRED": (Code.FAILED_PRECONDITION, sa.ReauthenticationRequired),
    "IMPERSONATION_FORBIDDEN": (Code.FAILED_PRECONDITION, sa.ImpersonationForbidden),
    "AUTHENTICATION_TOO_OLD": (Code.FAILED_PRECONDITION, sa.AuthenticationTooOld),
    "SESSION_LIMIT_REACHED": (Code.RESOURCE_EXHAUSTED, sa.SessionLimitReached),
    "RETRY_MISMATCH": (Code.INVALID_ARGUMENT, sa.RetryMismatch),
    "RETRY_STALE": (Code.FAILED_PRECONDITION, sa.RetryStale),
    "CLOCK_WRONG": (Code.UNAVAILABLE, sa.Unavailable),
    "ENDINGS_LOST": (Code.UNAVAILABLE, sa.Unavailable),
    "STORE_UNAVAILABLE": (Code.UNAVAILABLE, sa.Unavailable),
    "DEADLINE_EXCEEDED": (Code.DEADLINE_EXCEEDED, sa.DeadlineExceeded),
    "INTERNAL": (Code.INTERNAL, sa.InternalError),
    "API_KEY_MISSING": (Code.UNAUTHENTICATED, sa.ApiKeyRejected),
    "API_KEY_INVALID": (Code.UNAUTHENTICATED, sa.ApiKeyRejected),
    "API_KEY_EXPIRED": (Code.UNAUTHENTICATED, sa.ApiKeyRejected),
    "API_KEY_REVOKED": (Code.UNAUTHENTICATED, sa.ApiKeyRejected),
    "PERMISSION_MISSING": (Code.PERMISSION_DENIED, sa.PermissionMissing),
    "SERVER_OVERLOADED": (Code.RESOURCE_EXHAUSTED, sa.Unavailable),
    "WATCH_INTERRUPTED": (Code.UNAVAILABLE, sa.Unavailable),
    "TOO_MANY_STREAMS": (Code.RESOURCE_EXHAUSTED, sa.Unavailable),
    "EVENT_STREAMS_OFF": (Code.FAILED_PRECONDITION, sa.SessionAuthorityError),
    "EVENT_STREAM_NOT_FOUND": (Code.NOT_FOUND, sa.SessionAuthorityError),
    "EVENT_STREAM_EXISTS": (Code.ALREADY_EXISTS, sa.SessionAuthorityError),
    "VERIFICATION_TOO_SOON": (Code.RESOURCE_EXHAUSTED, sa.SessionAuthorityError),
    "RECEIVER_LIMIT_REACHED": (Code.RESOURCE_EXHAUSTED, sa.SessionAuthorityError),
    "TOO_MANY_REJECTED_TOKENS": (Code.RESOURCE_EXHAUSTED, sa.SessionNotLive),
}

BY_CODE: dict[grpc.StatusCode, type[sa.SessionAuthorityError]] = {
    Code.UNAVAILABLE: sa.Unavailable,
    Code.RESOURCE_EXHAUSTED: sa.Unavailable,
    Code.CANCELLED: sa.Unavailable,
    Code.ABORTED: sa.Unavailable,
    Code.DEADLINE_EXCEEDED: sa.DeadlineExceeded,
    Code.UNAUTHENTICATED: sa.CallerRejected,
    Code.PERMISSION_DENIED: sa.CallerRejected,
    Code.INVALID_ARGUMENT: sa.InvalidArgument,
    Code.OUT_OF_RANGE: sa.InvalidArgument,
    Code.NOT_FOUND: sa.SessionNotFound,
    Code.FAILED_PRECONDITION: sa.InternalError,
    Code.ALREADY_EXISTS: sa.InternalError,
    Code.UNIMPLEMENTED: sa.InternalError,
    Code.INTERNAL: sa.InternalError,
    Code.UNKNOWN: sa.InternalError,
    Code.DATA_LOSS: sa.InternalError,
}


async def error(twin: Twin, authority: FakeAuthority, failure: Fault) -> sa.SessionAuthorityError:
    authority.answers("RevokeSession", failure)
    with pytest.raises(sa.SessionAuthorityError) as caught:
        await twin.revoke(TOKEN, "s-1")
    return caught.value


def test_every_reason_of_the_api_has_an_error() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in ErrorReason.items()}
    assert reasons - {"UNSPECIFIED"} == BY_REASON.keys()


@pytest.mark.parametrize("reason", BY_REASON)
async def test_a_reason_becomes_its_error(
    twin: Twin, authority: FakeAuthority, reason: str
) -> None:
    code, expected = BY_REASON[reason]

    caught = await error(twin, authority, fault(code, reason, "why", metadata={"limit": "100"}))

    assert type(caught) is expected
    assert caught.reason == reason
    assert caught.metadata == {"limit": "100"}
    assert str(caught) == f"{expected.advice} ({reason}: why)"


@pytest.mark.parametrize("code", BY_CODE, ids=lambda code: code.name)
async def test_without_a_reason_the_status_code_decides(
    twin: Twin, authority: FakeAuthority, code: grpc.StatusCode
) -> None:
    caught = await error(twin, authority, Fault(code))

    assert type(caught) is BY_CODE[code]
    assert caught.reason is None
    assert caught.metadata == {}
    assert code.name in str(caught)


def test_every_status_code_has_an_error() -> None:
    assert set(Code) - {Code.OK} == BY_CODE.keys()


async def test_an_unknown_reason_falls_back_on_the_code(
    twin: Twin, authority: FakeAuthority
) -> None:
    caught = await error(twin, authority, fault(Code.UNAUTHENTICATED, "CALLER_TIRED"))
    assert type(caught) is sa.CallerRejected
    assert caught.reason == "CALLER_TIRED"


def test_an_error_of_the_caller_never_looks_like_an_ended_session() -> None:
    for kind in (sa.ApiKeyRejected, sa.PermissionMissing):
        assert issubclass(kind, sa.CallerRejected)
        assert not issubclass(kind, sa.SessionNotLive)


@pytest.mark.parametrize(
    "refusal",
    [
        Fault(Code.CANCELLED, "CANCELLED"),
        Fault(Code.RESOURCE_EXHAUSTED, "Too many pending requests for this server"),
    ],
)
async def test_a_server_too_busy_to_give_a_reason_is_overloaded(
    twin: Twin, authority: FakeAuthority, refusal: Fault
) -> None:
    caught = await error(twin, authority, refusal)
    assert type(caught) is sa.Unavailable
    assert caught.reason == "SERVER_OVERLOADED"
    assert caught.retry_after == timedelta(seconds=1)


async def test_an_overload_error_has_the_servers_retry_delay(
    twin: Twin, authority: FakeAuthority
) -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000)))
    failure = Fault(Code.RESOURCE_EXHAUSTED, details=status.SerializeToString())
    raised = await error(twin, authority, failure)
    assert isinstance(raised, sa.Unavailable)
    assert raised.retry_after == timedelta(milliseconds=250)


async def test_an_excessive_retry_delay_is_ignored(twin: Twin, authority: FakeAuthority) -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2**62)))
    failure = Fault(Code.RESOURCE_EXHAUSTED, details=status.SerializeToString())
    raised = await error(twin, authority, failure)
    assert isinstance(raised, sa.Unavailable)
    assert raised.retry_after is None


async def test_only_an_answer_of_the_authority_signs_a_user_out(
    twin: Twin, authority: FakeAuthority
) -> None:
    foreign = fault(Code.UNAUTHENTICATED, "SESSION_NOT_LIVE", domain="mesh.example")
    caught = await error(twin, authority, foreign)
    assert type(caught) is sa.CallerRejected
    assert caught.reason is None


async def test_field_violations_name_the_argument_to_fix(
    twin: Twin, authority: FakeAuthority
) -> None:
    caught = await error(
        twin,
        authority,
        fault(
            Code.INVALID_ARGUMENT,
            "INVALID_FIELD",
            violations={"user_id": "is too long", "lifetime": "is negative"},
        ),
    )

    assert isinstance(caught, sa.InvalidArgument)
    assert isinstance(caught, ValueError)
    assert caught.violations == (
        sa.FieldViolation("user_id", "is too long"),
        sa.FieldViolation("lifetime", "is negative"),
    )
    assert "user_id: is too long; lifetime: is negative" in str(caught)


@pytest.mark.parametrize(
    "details",
    [
        b"",
        b"\xff\xff",
        b"not a status",
        # A status with a malformed ErrorInfo.
        b"\x1a\x2f\n(type.googleapis.com/google.rpc.ErrorInfo\x12\x03\xff\xff\xff",
    ],
)
async def test_garbage_in_the_details_is_ignored(
    twin: Twin, authority: FakeAuthority, details: bytes
) -> None:
    caught = await error(twin, authority, Fault(Code.INVALID_ARGUMENT, "no", details))
    assert type(caught) is sa.InvalidArgument
    assert caught.reason is None
    assert caught.violations == ()


async def test_an_error_about_a_message_too_large_for_grpc_is_not_an_overload(
    twin: Twin, authority: FakeAuthority
) -> None:
    text = "SERVER: Received message larger than max (9 vs. 1)"
    caught = await error(twin, authority, Fault(Code.RESOURCE_EXHAUSTED, text))
    assert type(caught) is sa.RequestTooLarge


async def test_a_connection_lost_while_sending_is_an_outage(
    twin: Twin, authority: FakeAuthority
) -> None:
    caught = await error(twin, authority, Fault(Code.INTERNAL, "Internal error from Core"))
    assert type(caught) is sa.Unavailable


async def test_no_error_repeats_a_token_or_a_key(twin: Twin, authority: FakeAuthority) -> None:
    quoting = f"refused {TOKEN} of Bearer key-1"
    failure = fault(
        Code.INVALID_ARGUMENT,
        "INVALID_FIELD",
        quoting,
        metadata={"quote": quoting},
        violations={"session_token": quoting},
    )

    caught = await error(twin, authority, failure)

    assert isinstance(caught, sa.InvalidArgument)
    assert caught.__cause__ is None
    assert caught.__context__ is None
    everything = "".join(
        [
            repr(caught),
            repr(caught.metadata),
            repr(caught.violations),
            *traceback.format_exception(caught),
        ]
    )
    assert "refused" in everything
    assert TOKEN not in everything
    assert "key-1" not in everything


async def test_a_plain_text_that_quotes_a_token_is_masked(
    twin: Twin, authority: FakeAuthority
) -> None:
    caught = await error(twin, authority, Fault(Code.INTERNAL, f"oh {TOKEN}"))
    assert str(caught).endswith("(INTERNAL: oh …)")
