"""The exceptions of the client library.

    SessionAuthorityError
    ├── SessionNotLive            the user must sign in (again)
    ├── SessionNotFound           the user has no session of that id
    ├── AuthenticationTooOld      all sessions were revoked since the sign-in began: sign in again
    ├── ReauthenticationRequired  the user must prove their identity again
    ├── ImpersonationForbidden    an actor, who acts as the user, may not do this
    ├── SessionLimitReached       the user must end another session first
    ├── InvalidArgument           also a ValueError; an argument is invalid
    │   └── RetryMismatch         the retry secret belongs to another call
    ├── RetryStale                an earlier attempt succeeded, but its session has since ended
    ├── RequestTooLarge           the request is too large
    ├── Unavailable               nothing is known: keep the cookie, answer 503
    │   └── DeadlineExceeded      the same, because no answer came in time
    ├── CallerRejected            the authority rejects the calling program, not the user
    │   ├── ApiKeyRejected        its API key is missing, wrong, expired or revoked
    │   └── PermissionMissing     its API key does not permit this
    ├── InternalError             a fault of the authority, or an answer that the library does not understand
    ├── EventRejected             an event is not the authority's, or too old: answer 400
    ├── ClientClosed              also a RuntimeError; the client was used after close()
    └── ConfigurationError        also a ValueError; a setting has no usable value

Only `SessionNotLive` means that a user is signed out. No message, attribute or cause contains a token
or an API key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from session_authority.session import Rejection

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A fault of one argument.

    Attributes:
        field: The argument, as the API names it.
        description: The fault, and how to correct it.
    """

    field: str
    description: str


class SessionAuthorityError(Exception):
    """A call to the session authority failed.

    Attributes:
        reason: The authority's name for the error, a value of `ErrorReason` without its prefix. None if the
            error did not come from the authority, or has no reason.
        metadata: The details of the reason, for example `limit`.
    """

    advice: ClassVar[str] = "The call to the session authority failed."

    def __init__(
        self,
        detail: str = "",
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
    ) -> None:
        super().__init__(f"{self.advice} ({detail})" if detail else self.advice)
        self.reason = reason
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata))


class SessionNotLive(SessionAuthorityError):
    """The token has no live session: the user must sign in.

    Attributes:
        rejection: Why the token is invalid, if known. To the user, say only that the session has ended.
    """

    advice = "The session is not live: the user must sign in."

    def __init__(
        self,
        detail: str = "",
        *,
        rejection: Rejection | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
    ) -> None:
        super().__init__(detail, reason=reason, metadata=metadata)
        self.rejection = rejection


class SessionNotFound(SessionAuthorityError):
    """The user has no session with this id. Another user may have one."""

    advice = "The user has no session with this id."


class AuthenticationTooOld(SessionAuthorityError):
    """All of the user's sessions were revoked after the credential check began."""

    advice = (
        "All of the user's sessions were revoked after this credential check began: "
        "let the user sign in again."
    )


class ReauthenticationRequired(SessionAuthorityError):
    """The user's last proof of identity is too old to list or to end their sessions.

    `metadata["max_authentication_age_seconds"]` is the policy's limit.
    """

    advice = "The last proof of identity is too old for this: let the user re-authenticate."


class ImpersonationForbidden(SessionAuthorityError):
    """The session has an actor, a person who acts as the user, and can neither list nor revoke sessions."""

    advice = "A person who acts as a user can neither list nor revoke the user's sessions."


class SessionLimitReached(SessionAuthorityError):
    """The user has as many live sessions as the policy allows. `metadata["limit"]` is the limit."""

    advice = (
        "The user has as many live sessions as the policy allows: let the user end one elsewhere."
    )


class InvalidArgument(SessionAuthorityError, ValueError):
    """An argument breaks a documented limit or form. The same call would fail again.

    Attributes:
        violations: The faults of the arguments.
    """

    advice = "An argument is invalid: correct it before you call again."

    def __init__(
        self,
        detail: str = "",
        *,
        violations: Sequence[FieldViolation] = (),
        reason: str | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
    ) -> None:
        found = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(found or detail, reason=reason, metadata=metadata)
        self.violations = tuple(violations)


class RetryMismatch(InvalidArgument):
    """The retry secret was used before, with other parameters. Each new call needs a fresh one."""

    advice = "The retry secret belongs to another call: each new call needs a fresh one."


class RetryStale(SessionAuthorityError):
    """An earlier attempt of this call succeeded, but its session has since ended or got another token."""

    advice = (
        "An earlier attempt of this call succeeded, but its session has since ended or got another "
        "token: let the user sign in again."
    )


class RequestTooLarge(SessionAuthorityError):
    """The request is too large. `metadata["limit_bytes"]`, if present, is the limit."""

    advice = "The request is too large: pass less data."


class Unavailable(SessionAuthorityError):
    """The authority cannot answer, so nothing is known about the session: keep the cookie and answer 503.

    The authority, its store or the network is down or overloaded. The library has already retried. Calling again later
    is safe. `reason` is SERVER_OVERLOADED if the authority is overloaded.

    Attributes:
        retry_after: How long to wait before the next call, if known.
    """

    advice = (
        "The session authority is unavailable, so nothing is known about the session: "
        "keep the user's cookie, answer 503 and try again later."
    )

    def __init__(
        self,
        detail: str = "",
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(detail, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class DeadlineExceeded(Unavailable):
    """No answer came within the deadline. The authority may have made the change or not."""

    advice = (
        "The session authority did not answer in time, so nothing is known about the session: "
        "keep the user's cookie, answer 503 and try again later."
    )


class CallerRejected(SessionAuthorityError):
    """The authority rejects the calling program: its API key is missing, wrong or lacks the permission."""

    advice = (
        "The session authority rejects this program: check that its API key is set, is valid and "
        "has the permission (SESSION_AUTHORITY_API_KEY)."
    )


class ApiKeyRejected(CallerRejected):
    """The API key is missing, unknown, expired or revoked; `reason` says which."""

    advice = (
        "The session authority does not accept this program's API key: set a valid one "
        "(SESSION_AUTHORITY_API_KEY, from `session-authority keys create`)."
    )


class PermissionMissing(CallerRejected):
    """The API key is valid but lacks the permission `metadata["permission"]`."""

    advice = (
        "This program's API key lacks the permission for this call: set one that has the "
        "permission (SESSION_AUTHORITY_API_KEY, from `session-authority keys create`)."
    )


class InternalError(SessionAuthorityError):
    """The authority has a fault, which its log describes, or sent an answer that the library does not understand."""

    advice = (
        "The session authority failed, or sent an answer that this library does not understand: "
        "keep the user's cookie, answer 500, and see the authority's log."
    )


class EventRejected(SessionAuthorityError):
    """A request with an event is not signed by the authority, or was sent too long ago."""

    advice = "The event was not accepted: answer 400, and use no part of it."


class ClientClosed(SessionAuthorityError, RuntimeError):
    """The client was closed before or during the call."""

    advice = "This client is closed: create another one."


class ConfigurationError(SessionAuthorityError, ValueError):
    """A setting has no usable value.

    Attributes:
        setting: The argument or the environment variable.
        problem: The fault of its value.
    """

    advice = "The client is not configured correctly."

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting} {problem}")
        self.setting = setting
        self.problem = problem


EndCallback: TypeAlias = Callable[[SessionAuthorityError], object]
"""A callback of `on_end`. It takes the error that `require` would raise."""
