"""The exceptions of the client library.

    SessionAuthorityError
    ├── SessionNotLive            the user must sign in (again)
    ├── SessionNotFound           the user has no session of that id
    ├── AuthenticationTooOld      a sign-in begun before "end everything": start it anew
    ├── ReauthenticationRequired  the user must prove again who they are, then ask again
    ├── ImpersonationForbidden    whoever acts as the user may not do this
    ├── SessionLimitReached       the user must end another session first
    ├── InvalidArgument           also a ValueError; the app passed what the authority refuses
    │   └── RetryMismatch
    ├── RetryStale                the repetition of a call whose session has ended since
    ├── RequestTooLarge           the app passed too much
    ├── Unavailable               nothing is known: keep the cookie, answer 503
    │   └── DeadlineExceeded
    ├── CallerRejected            the calling program is refused; no user is signed out by it
    │   ├── ApiKeyRejected        its API key is missing, wrong, expired or revoked
    │   └── PermissionMissing     its API key does not permit this
    ├── InternalError             a fault of the authority, or something else answering for it
    ├── ClientClosed              also a RuntimeError; the client was used after close()
    └── ConfigurationError        also a ValueError; a setting has no usable value

Only `SessionNotLive` means that a user is signed out. No message, attribute or cause contains a token
or an API key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar

from session_authority.session import Rejection

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with one argument.

    Attributes:
        field: The argument, as the API names it.
        description: What is wrong and how to mend it.
    """

    field: str
    description: str


class SessionAuthorityError(Exception):
    """The session authority did not do what it was asked to.

    Attributes:
        reason: The authority's own name for what happened, one of `ErrorReason` without its
            prefix; None where the error did not come from the authority or named none.
        metadata: What the authority added to the reason, for example `limit`.
    """

    advice: ClassVar[str] = "The session authority did not do what it was asked to."

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
    """The token names no live session: the user must sign in.

    Attributes:
        rejection: Why the token is not accepted, where that is known. Show the user no more of it
            than the session's own end.
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
    """The user has no session of this id; whether somebody else has is not told."""

    advice = "The user has no session of this id."


class AuthenticationTooOld(SessionAuthorityError):
    """The credential check began before all of the user's sessions were last ended."""

    advice = (
        "All of the user's sessions were ended after this credential check began: "
        "let the user sign in again."
    )


class ReauthenticationRequired(SessionAuthorityError):
    """The user's last proof of identity is too old to look at their sessions or to end them.

    `metadata["max_authentication_age_seconds"]` says how old it may be.
    """

    advice = "The last proof of identity is too old for this: let the user re-authenticate."


class ImpersonationForbidden(SessionAuthorityError):
    """The session is that of somebody who acts as the user, who may neither list nor revoke."""

    advice = "Whoever acts as a user may neither list nor revoke the user's sessions."


class SessionLimitReached(SessionAuthorityError):
    """The user has as many live sessions as the policy allows; `metadata["limit"]` says how many."""

    advice = (
        "The user has as many live sessions as the policy allows: let the user end one elsewhere."
    )


class InvalidArgument(SessionAuthorityError, ValueError):
    """An argument breaks a documented limit or form; the same call would fail again.

    Attributes:
        violations: What is wrong with which argument.
    """

    advice = "An argument is not valid: mend it before calling again."

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
    """A retry secret was used before with other parameters; each new call needs a fresh one."""

    advice = "The retry secret belongs to another call: each new call needs a fresh one."


class RetryStale(SessionAuthorityError):
    """The call repeats one that succeeded, but the session it made has ended or has another token."""

    advice = (
        "An earlier attempt of this call succeeded and its session has since ended or got another "
        "token: let the user sign in again."
    )


class RequestTooLarge(SessionAuthorityError):
    """The request exceeds a limit; `metadata["limit_bytes"]`, where present, says which."""

    advice = "The request is too large: pass less."


class Unavailable(SessionAuthorityError):
    """Nothing can be said about any session at this moment: keep the cookie and answer 503.

    The authority, its store or the network between is down or overloaded (`reason` is then
    SERVER_OVERLOADED), and the library has already retried. While an authority is overloaded, the library
    itself refuses a part of the validations and lists, without asking. Repeating the call later is safe.

    Attributes:
        retry_after: In how long it may be worth it, where that is known.
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
    """No answer came within the deadline; it is not known whether a change was made."""

    advice = (
        "The session authority did not answer in time, so nothing is known about the session: "
        "keep the user's cookie, answer 503 and try again later."
    )


class CallerRejected(SessionAuthorityError):
    """The authority refuses the calling program: its API key is missing, wrong, or may not do this."""

    advice = (
        "The session authority refuses this caller: check that its API key is given, current and "
        "permitted to do this (SESSION_AUTHORITY_API_KEY)."
    )


class ApiKeyRejected(CallerRejected):
    """The API key is missing, unknown, expired or revoked; `reason` says which."""

    advice = (
        "The session authority does not accept this program's API key: give it a current one "
        "(SESSION_AUTHORITY_API_KEY, from `session-authority keys create`)."
    )


class PermissionMissing(CallerRejected):
    """The API key is good but does not permit this; `metadata["permission"]` says what it lacks."""

    advice = (
        "The session authority does not permit this with this program's API key: give it one with "
        "the permission (SESSION_AUTHORITY_API_KEY, from `session-authority keys create`)."
    )


class InternalError(SessionAuthorityError):
    """A fault of the authority, logged there, or an answer that no authority gives."""

    advice = (
        "The session authority failed or answered what this library does not understand: "
        "keep the user's cookie, answer 500, and see the authority's log."
    )


class ClientClosed(SessionAuthorityError, RuntimeError):
    """The client was closed, before the call or during it."""

    advice = "This client is closed: make another one."


class ConfigurationError(SessionAuthorityError, ValueError):
    """A setting has no usable value.

    Attributes:
        setting: The argument or the environment variable.
        problem: What is wrong with it.
    """

    advice = "The client is not configured correctly."

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting} {problem}")
        self.setting = setting
        self.problem = problem
