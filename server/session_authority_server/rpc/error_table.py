"""The one place where an error becomes a gRPC status."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from session_authority.v1 import error_reason_pb2 as reasons
from session_authority_server.domain import errors
from session_authority_server.domain.errors import AuthorityError, InvalidRequest
from session_authority_server.watch.stream import Cause, TooManyStreams, WatchInterrupted

ERROR_DOMAIN = "session-authority"
_RETRY_AFTER = timedelta(milliseconds=250)
DETAILS_KEY = "grpc-status-details-bin"
# Clients repeat what is refused with RESOURCE_EXHAUSTED, which is right for an overload alone.
_DO_NOT_REPEAT = ("grpc-retry-pushback-ms", "-1")


class CallError(AuthorityError):
    """What is wrong with a call before any use-case sees it."""


class MalformedRequest(CallError):
    """The request's bytes are no message of the expected type."""

    def __init__(self, expected: str) -> None:
        super().__init__(f"the request is no {expected} message")


class RequestTooLarge(CallError):
    """The request is larger than allowed."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class DeadlineExceeded(CallError):
    """The answer was not ready in time; try again."""


class ServerOverloaded(CallError):
    """The authority has too many calls under way; try again."""


class TooManyRejectedTokens(CallError):
    """The session token is not good, and this caller has presented too many unknown tokens."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__()
        self.retry_after = retry_after


class Unforeseen(CallError):
    """The authority failed; its log says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """How a kind of error is answered."""

    code: grpc.StatusCode
    reason: reasons.ErrorReason.ValueType
    metadata: Callable[[AuthorityError], dict[str, str]] = lambda _error: {}
    retry: bool = False

    @property
    def reason_name(self) -> str:
        """The reason as ErrorInfo spells it."""
        return reasons.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")


def _seconds(span: timedelta | None) -> str:
    return "" if span is None else f"{span.total_seconds():.0f}"


TABLE: dict[type[AuthorityError], Row] = {
    errors.InvalidRequest: Row(
        grpc.StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_INVALID_FIELD
    ),
    errors.RetryMismatch: Row(
        grpc.StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_RETRY_MISMATCH
    ),
    errors.SessionNotLive: Row(
        grpc.StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_SESSION_NOT_LIVE
    ),
    errors.SessionNotFound: Row(grpc.StatusCode.NOT_FOUND, reasons.ERROR_REASON_SESSION_NOT_FOUND),
    errors.AuthenticationTooOld: Row(
        grpc.StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_AUTHENTICATION_TOO_OLD
    ),
    errors.ReauthenticationRequired: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        reasons.ERROR_REASON_REAUTHENTICATION_REQUIRED,
        lambda error: {"max_authentication_age_seconds": _seconds(getattr(error, "max_age", None))},
    ),
    errors.ImpersonationForbidden: Row(
        grpc.StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_IMPERSONATION_FORBIDDEN
    ),
    errors.SessionLimitReached: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_SESSION_LIMIT_REACHED,
        lambda error: {"limit": str(getattr(error, "limit", ""))},
    ),
    errors.RetryStale: Row(grpc.StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_RETRY_STALE),
    errors.ApiKeyMissing: Row(
        grpc.StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_API_KEY_MISSING
    ),
    errors.ApiKeyInvalid: Row(
        grpc.StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_API_KEY_INVALID
    ),
    errors.ApiKeyExpired: Row(
        grpc.StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_API_KEY_EXPIRED
    ),
    errors.ApiKeyRevoked: Row(
        grpc.StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_API_KEY_REVOKED
    ),
    errors.PermissionMissing: Row(
        grpc.StatusCode.PERMISSION_DENIED,
        reasons.ERROR_REASON_PERMISSION_MISSING,
        lambda error: {"permission": str(getattr(error, "permission", ""))},
    ),
    errors.StoreUnavailable: Row(
        grpc.StatusCode.UNAVAILABLE, reasons.ERROR_REASON_STORE_UNAVAILABLE, retry=True
    ),
    errors.ClockWrong: Row(
        grpc.StatusCode.UNAVAILABLE, reasons.ERROR_REASON_CLOCK_WRONG, retry=True
    ),
    MalformedRequest: Row(grpc.StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_MALFORMED_REQUEST),
    RequestTooLarge: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_REQUEST_TOO_LARGE,
        lambda error: {"limit_bytes": str(getattr(error, "limit_bytes", ""))},
    ),
    DeadlineExceeded: Row(
        grpc.StatusCode.DEADLINE_EXCEEDED, reasons.ERROR_REASON_DEADLINE_EXCEEDED, retry=True
    ),
    ServerOverloaded: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_SERVER_OVERLOADED, retry=True
    ),
    TooManyRejectedTokens: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_TOO_MANY_REJECTED_TOKENS,
        retry=True,
    ),
    WatchInterrupted: Row(
        grpc.StatusCode.UNAVAILABLE,
        reasons.ERROR_REASON_WATCH_INTERRUPTED,
        lambda error: {"cause": getattr(error, "cause", Cause.CHANNEL_LOST).name},
        retry=True,
    ),
    TooManyStreams: Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_TOO_MANY_STREAMS,
        lambda error: {"limit": str(getattr(error, "limit", ""))},
        retry=True,
    ),
    Unforeseen: Row(grpc.StatusCode.INTERNAL, reasons.ERROR_REASON_INTERNAL),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as it goes over the wire."""

    code: grpc.StatusCode
    reason: str
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def answer(error: AuthorityError) -> Answer:
    """Return what a caller is told of an error."""
    row = TABLE[type(error)]
    message = str(error)
    status = Status(code=row.code.value[0], message=message)
    status.details.add().Pack(
        ErrorInfo(reason=row.reason_name, domain=ERROR_DOMAIN, metadata=row.metadata(error))
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
    if row.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not isinstance(error, ServerOverloaded):
        metadata += (_DO_NOT_REPEAT,)
    return Answer(row.code, row.reason_name, message, metadata)
