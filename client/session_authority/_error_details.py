"""Conversion of gRPC statuses to the exceptions of the library."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from session_authority.errors import (
    ApiKeyRejected,
    AuthenticationTooOld,
    CallerRejected,
    DeadlineExceeded,
    FieldViolation,
    ImpersonationForbidden,
    InternalError,
    InvalidArgument,
    PermissionMissing,
    ReauthenticationRequired,
    RequestTooLarge,
    RetryMismatch,
    RetryStale,
    SessionAuthorityError,
    SessionLimitReached,
    SessionNotFound,
    SessionNotLive,
    Unavailable,
)

_DOMAIN = "session-authority"
RETRY_AFTER = timedelta(seconds=1)  # if the server gives no delay
_DETAILS_KEY = "grpc-status-details-bin"

# The authority never quotes a secret, but a proxy may.
_SECRET = re.compile(r"(?:ses|sak)_\w+|(?<=bearer )\S+", re.IGNORECASE)

_BY_REASON: Mapping[str, type[SessionAuthorityError]] = {
    "INVALID_FIELD": InvalidArgument,
    "MALFORMED_REQUEST": InvalidArgument,
    "REQUEST_TOO_LARGE": RequestTooLarge,
    "SESSION_NOT_LIVE": SessionNotLive,
    # The authority looked the token up before it rejected the call: the token is invalid.
    "TOO_MANY_REJECTED_TOKENS": SessionNotLive,
    "SESSION_NOT_FOUND": SessionNotFound,
    "AUTHENTICATION_TOO_OLD": AuthenticationTooOld,
    "REAUTHENTICATION_REQUIRED": ReauthenticationRequired,
    "IMPERSONATION_FORBIDDEN": ImpersonationForbidden,
    "SESSION_LIMIT_REACHED": SessionLimitReached,
    "RETRY_MISMATCH": RetryMismatch,
    "RETRY_STALE": RetryStale,
    "STORE_UNAVAILABLE": Unavailable,
    "CLOCK_WRONG": Unavailable,
    "ENDINGS_LOST": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "SERVER_OVERLOADED": Unavailable,
    "WATCH_INTERRUPTED": Unavailable,
    "TOO_MANY_STREAMS": Unavailable,
    "INTERNAL": InternalError,
    # The client has no methods for streams of events.
    "EVENT_STREAMS_OFF": SessionAuthorityError,
    "EVENT_STREAM_NOT_FOUND": SessionAuthorityError,
    "EVENT_STREAM_EXISTS": SessionAuthorityError,
    "VERIFICATION_TOO_SOON": SessionAuthorityError,
    "RECEIVER_LIMIT_REACHED": SessionAuthorityError,
    "API_KEY_MISSING": ApiKeyRejected,
    "API_KEY_INVALID": ApiKeyRejected,
    "API_KEY_EXPIRED": ApiKeyRejected,
    "API_KEY_REVOKED": ApiKeyRejected,
    "PERMISSION_MISSING": PermissionMissing,
}

# The exceptions for a status without a known reason. Here, UNAUTHENTICATED means that the calling program was rejected.
# The client treats a user as signed out only if the authority gives a reason for it.
_BY_CODE: Mapping[grpc.StatusCode, type[SessionAuthorityError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: CallerRejected,
    grpc.StatusCode.PERMISSION_DENIED: CallerRejected,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: SessionNotFound,
}


class Failure(Protocol):
    """The status of a failed call, from `grpc` or `grpc.aio`."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[Any] | None: ...


class _Details(NamedTuple):
    reason: str | None = None
    metadata: Mapping[str, str] = {}
    violations: tuple[FieldViolation, ...] = ()
    retry_after: timedelta | None = None


def error_of(failure: Failure) -> SessionAuthorityError:
    """Return the exception for a failed call. It contains no secret. This function never raises."""
    code, text = failure.code(), failure.details() or ""
    reason, metadata, violations, retry_after = _details(failure.trailing_metadata() or ())
    if _is_overload(code, text) and reason is None:
        reason, retry_after = "SERVER_OVERLOADED", RETRY_AFTER
    kind = _BY_REASON.get(reason or "") or _kind_of(code, text)
    detail = ": ".join(filter(None, [reason or code.name, masked(text)]))
    if issubclass(kind, InvalidArgument):
        return kind(detail, violations=violations, reason=reason, metadata=metadata)
    if issubclass(kind, Unavailable):
        return kind(detail, reason=reason, metadata=metadata, retry_after=retry_after)
    return kind(detail, reason=reason, metadata=metadata)


def _is_overload(code: grpc.StatusCode, text: str) -> bool:
    # If a server is too busy to accept a call, its gRPC gives no reason, only one of these texts. The second one
    # comes from newer versions.
    if code is grpc.StatusCode.CANCELLED:
        return text == "CANCELLED"
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED and "Too many pending requests" in text


def _kind_of(code: grpc.StatusCode, text: str) -> type[SessionAuthorityError]:
    # For a message over its size limit, gRPC uses the code of an overload. Only the text differs.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in text:
        return RequestTooLarge
    # grpc.aio's own words for a connection that was lost while the client sent something.
    if code is grpc.StatusCode.INTERNAL and text == "Internal error from Core":
        return Unavailable
    return _BY_CODE.get(code, InternalError)


def _details(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> _Details:
    try:
        return _decoded(trailing_metadata)
    except (DecodeError, OverflowError, TypeError, ValueError):
        return _Details()


def _decoded(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> _Details:
    details = _Details()
    for key, value in trailing_metadata:
        if key != _DETAILS_KEY:
            continue
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        for packed in status_pb2.Status.FromString(value).details:
            if packed.Unpack(info) and info.domain == _DOMAIN:
                details = details._replace(
                    reason=info.reason,
                    metadata={name: masked(text) for name, text in info.metadata.items()},
                )
            elif packed.Unpack(retry_info):
                details = details._replace(retry_after=retry_info.retry_delay.ToTimedelta())
            elif packed.Unpack(bad_request):
                details = details._replace(
                    violations=tuple(
                        FieldViolation(violation.field, masked(violation.description))
                        for violation in bad_request.field_violations
                    )
                )
    return details


def masked(text: str) -> str:
    """Return a text with its session tokens and API keys masked."""
    return _SECRET.sub("…", text)
