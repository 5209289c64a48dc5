"""The table that maps errors to gRPC statuses."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from session_authority_server.domain import errors
from session_authority_server.domain.errors import AuthorityError, InvalidRequest
from session_authority_server.watch.stream import TooManyStreams, WatchInterrupted

ERROR_DOMAIN = "session-authority"
_RETRY_AFTER = timedelta(milliseconds=250)
DETAILS_KEY = "grpc-status-details-bin"
# Clients retry RESOURCE_EXHAUSTED, which is right only for an overload.
_DO_NOT_RETRY = ("grpc-retry-pushback-ms", "-1")


class CallError(AuthorityError):
    """A problem with a call before it reaches a use-case."""


class MalformedRequest(CallError):
    """The request's bytes are not a message of the expected type."""

    def __init__(self, expected: str, problem: str = "") -> None:
        because = f": {problem}" if problem else ""
        super().__init__(f"the request is not a valid {expected} message{because}")


class RequestTooLarge(CallError):
    """The request is larger than its limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class DeadlineExceeded(CallError):
    """The answer was not ready in time; try again."""


class ServerOverloaded(CallError):
    """The authority has too many calls in flight; try again."""


class TooManyRejectedTokens(CallError):
    """The session token is invalid, and this caller has presented too many unknown tokens; try again later."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__()
        self.retry_after = retry_after


class UnexpectedFailure(CallError):
    """The authority failed; its log says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """The status of one kind of error.

    Attributes:
        code: The status code.
        reason: The ErrorReason of the proto, in the form that ErrorInfo uses.
        metadata: Returns the metadata of ErrorInfo.
        retry: Whether a retry may succeed.
    """

    code: StatusCode
    reason: str
    metadata: Callable[[Any], dict[str, str]] = lambda _error: {}
    retry: bool = False


TABLE: dict[type[AuthorityError], Row] = {
    errors.InvalidRequest: Row(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    errors.RetryMismatch: Row(StatusCode.INVALID_ARGUMENT, "RETRY_MISMATCH"),
    errors.SessionNotLive: Row(StatusCode.UNAUTHENTICATED, "SESSION_NOT_LIVE"),
    errors.SessionNotFound: Row(StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    errors.AuthenticationTooOld: Row(StatusCode.FAILED_PRECONDITION, "AUTHENTICATION_TOO_OLD"),
    errors.ReauthenticationRequired: Row(
        StatusCode.FAILED_PRECONDITION,
        "REAUTHENTICATION_REQUIRED",
        lambda error: {"max_authentication_age_seconds": f"{error.max_age.total_seconds():.0f}"},
    ),
    errors.ImpersonationForbidden: Row(StatusCode.FAILED_PRECONDITION, "IMPERSONATION_FORBIDDEN"),
    errors.SessionLimitReached: Row(
        StatusCode.RESOURCE_EXHAUSTED,
        "SESSION_LIMIT_REACHED",
        lambda error: {"limit": str(error.limit)},
    ),
    errors.RetryStale: Row(StatusCode.FAILED_PRECONDITION, "RETRY_STALE"),
    errors.EventStreamsOff: Row(StatusCode.FAILED_PRECONDITION, "EVENT_STREAMS_OFF"),
    errors.EventStreamNotFound: Row(StatusCode.NOT_FOUND, "EVENT_STREAM_NOT_FOUND"),
    errors.EventStreamExists: Row(StatusCode.ALREADY_EXISTS, "EVENT_STREAM_EXISTS"),
    errors.VerificationTooSoon: Row(
        StatusCode.RESOURCE_EXHAUSTED, "VERIFICATION_TOO_SOON", retry=True
    ),
    errors.ReceiverLimitReached: Row(
        StatusCode.RESOURCE_EXHAUSTED,
        "RECEIVER_LIMIT_REACHED",
        lambda error: {"limit": str(error.limit)},
    ),
    errors.ApiKeyMissing: Row(StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"),
    errors.ApiKeyInvalid: Row(StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
    errors.ApiKeyExpired: Row(StatusCode.UNAUTHENTICATED, "API_KEY_EXPIRED"),
    errors.ApiKeyRevoked: Row(StatusCode.UNAUTHENTICATED, "API_KEY_REVOKED"),
    errors.PermissionMissing: Row(
        StatusCode.PERMISSION_DENIED,
        "PERMISSION_MISSING",
        lambda error: {"permission": error.permission},
    ),
    errors.StoreUnavailable: Row(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry=True),
    errors.ClockWrong: Row(StatusCode.UNAVAILABLE, "CLOCK_WRONG", retry=True),
    errors.EndingsLost: Row(StatusCode.UNAVAILABLE, "ENDINGS_LOST", retry=True),
    MalformedRequest: Row(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
    RequestTooLarge: Row(
        StatusCode.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
        lambda error: {"limit_bytes": str(error.limit_bytes)},
    ),
    DeadlineExceeded: Row(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", retry=True),
    ServerOverloaded: Row(StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", retry=True),
    TooManyRejectedTokens: Row(
        StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REJECTED_TOKENS", retry=True
    ),
    WatchInterrupted: Row(
        StatusCode.UNAVAILABLE,
        "WATCH_INTERRUPTED",
        lambda error: {"cause": error.cause.name},
        retry=True,
    ),
    TooManyStreams: Row(
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS",
        lambda error: {"limit": str(error.limit)},
        retry=True,
    ),
    UnexpectedFailure: Row(StatusCode.INTERNAL, "INTERNAL"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of an error, ready to send."""

    code: StatusCode
    reason: str
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]

    def with_metadata(self, pair: tuple[str, str]) -> "Answer":
        """Return the same status with one more pair of metadata."""
        return Answer(self.code, self.reason, self.message, (*self.trailing_metadata, pair))


def answer(error: AuthorityError) -> Answer:
    """Return the status that a caller receives for an error."""
    row = TABLE[type(error)]
    message = str(error)
    status = Status(code=row.code.value[0], message=message)
    status.details.add().Pack(
        ErrorInfo(reason=row.reason, domain=ERROR_DOMAIN, metadata=row.metadata(error))
    )
    if isinstance(error, InvalidRequest):
        violations = [
            BadRequest.FieldViolation(field=each.field, description=each.description)
            for each in error.violations
        ]
        status.details.add().Pack(BadRequest(field_violations=violations))
    if row.retry:
        delay = Duration()
        delay.FromTimedelta(getattr(error, "retry_after", _RETRY_AFTER))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    metadata: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)
    if row.code is StatusCode.RESOURCE_EXHAUSTED and not isinstance(error, ServerOverloaded):
        metadata += (_DO_NOT_RETRY,)
    return Answer(row.code, row.reason, message, metadata)
