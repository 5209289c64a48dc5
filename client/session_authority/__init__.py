"""The client of Session Authority, which validates session tokens.

with SessionClient.from_env() as client:
    if session := client.validate(token):
        ...
"""

from session_authority.aio import AsyncSessionClient
from session_authority.errors import (
    ApiKeyRejected,
    AuthenticationTooOld,
    CallerRejected,
    ClientClosed,
    ConfigurationError,
    DeadlineExceeded,
    EventRejected,
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
from session_authority.near_cache.endings import EndSubscription
from session_authority.near_cache.options import NearCache, NearCacheStatistics
from session_authority.session import (
    Device,
    DeviceType,
    EndReason,
    Identity,
    InitiatingEntity,
    Location,
    NewSession,
    Rejection,
    RejectionReason,
    RevokedSession,
    Session,
    SessionState,
    ValidationRequest,
)
from session_authority.session_token import SESSION_TOKEN_METADATA_KEY, SessionToken
from session_authority.sync import SessionClient

__all__ = [
    "SESSION_TOKEN_METADATA_KEY",
    "ApiKeyRejected",
    "AsyncSessionClient",
    "AuthenticationTooOld",
    "CallerRejected",
    "ClientClosed",
    "ConfigurationError",
    "DeadlineExceeded",
    "Device",
    "DeviceType",
    "EndReason",
    "EndSubscription",
    "EventRejected",
    "FieldViolation",
    "Identity",
    "ImpersonationForbidden",
    "InitiatingEntity",
    "InternalError",
    "InvalidArgument",
    "Location",
    "NearCache",
    "NearCacheStatistics",
    "NewSession",
    "PermissionMissing",
    "ReauthenticationRequired",
    "Rejection",
    "RejectionReason",
    "RequestTooLarge",
    "RetryMismatch",
    "RetryStale",
    "RevokedSession",
    "Session",
    "SessionAuthorityError",
    "SessionClient",
    "SessionLimitReached",
    "SessionNotFound",
    "SessionNotLive",
    "SessionState",
    "SessionToken",
    "Unavailable",
    "ValidationRequest",
]
