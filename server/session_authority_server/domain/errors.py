"""The errors of the domain and the use-cases. `rpc/error_table.py` maps each error to a gRPC status."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from session_authority_server.domain.event import CredentialRejected
from session_authority_server.domain.session import Session

# If an answer has more than 8 KiB of metadata, gRPC clients drop it, and the error details are lost. A violation takes
# up to 850 bytes of metadata: its field, and three copies of its text, one of them percent-encoded.
VIOLATIONS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Violation:
    """A problem with one field of a request, and how to correct it."""

    field: str
    description: str


class AuthorityError(Exception):
    """The authority can't do what the call asks for.

    The first line of a subclass's docstring is its message, unless the message contains values of the call.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(_message_from_docstring(type(self)) if message is None else message)


def _message_from_docstring(kind: type) -> str:
    if not kind.__doc__:  # `python -OO` removes docstrings; the class name is the best message left
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    [summary, *_] = kind.__doc__.splitlines()
    return summary[:1].lower() + summary[1:].removesuffix(".")


class InvalidRequest(AuthorityError):
    """The request breaks a documented limit or form.

    Attributes:
        violations: The problems, VIOLATIONS_LIMIT at most. The message says how many more there are.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        shown = violations[:VIOLATIONS_LIMIT]
        message = "; ".join(f"{each.field}: {each.description}" for each in shown)
        omitted = len(violations) - len(shown)
        super().__init__(f"{message}; and {omitted} more" if omitted else message)
        self.violations = tuple(shown)


class RetryMismatch(InvalidRequest):
    """The retry secret was used before with other parameters."""

    def __init__(self) -> None:
        problem = "was used before with other parameters; make a fresh one for each new call"
        super().__init__([Violation("retry_secret", problem)])


class SessionNotLive(AuthorityError):
    """The session token does not belong to a live session; the user must sign in.

    Attributes:
        rejected: The event for the audit log if the token is not the session's. No caller may see it.
        superseded: The session, if the token is one of its superseded tokens.
    """

    def __init__(
        self, *, rejected: CredentialRejected | None = None, superseded: Session | None = None
    ) -> None:
        super().__init__()
        self.rejected = rejected
        self.superseded = superseded


class SessionNotFound(AuthorityError):
    """The user has no session with this id."""


class AuthenticationTooOld(AuthorityError):
    """The user's or the identity's sessions were revoked after this check began; the user must sign in again.

    Attributes:
        swept_time: When the sessions were revoked.
        user_id: The user.
    """

    def __init__(self, swept_time: datetime, user_id: str = "") -> None:
        super().__init__()
        self.swept_time = swept_time
        self.user_id = user_id


class ReauthenticationRequired(AuthorityError):
    """The proof of identity is older than the policy allows for this call."""

    def __init__(self, max_age: timedelta) -> None:
        super().__init__(
            f"the user last proved their identity more than {max_age.total_seconds():.0f} s ago; "
            "let the user re-authenticate, then call again with the new token"
        )
        self.max_age = max_age


class ImpersonationForbidden(AuthorityError):
    """Another person acts as the user in this session; only the user may list or revoke the user's sessions."""


class SessionLimitReached(AuthorityError):
    """The user has as many live sessions as the policy allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the user has {limit} live sessions, the most that the policy allows; "
            "end one before you create another"
        )
        self.limit = limit


class RetryStale(AuthorityError):
    """An earlier call with this retry_secret succeeded, but its session has since ended or got another token; call again with a fresh retry_secret."""


class EventStreamsOff(AuthorityError):
    """The authority has no security events for receivers; the operator can set EVENT_ISSUER and EVENT_SIGNING_KEYS."""


class EventStreamNotFound(AuthorityError):
    """The caller's API key has no stream of events with this id."""


class EventStreamExists(AuthorityError):
    """The caller's API key, or another key of the same name, already has a stream of events."""


class VerificationTooSoon(AuthorityError):
    """The receiver asked for another verification within the shortest interval.

    Attributes:
        retry_after: When to ask again.
    """

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__("the last verification was too recent; ask again later")
        self.retry_after = retry_after


class ReceiverLimitReached(AuthorityError):
    """The authority has as many receivers of events as it may have; an operator can remove one."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


class ApiKeyMissing(AuthorityError):
    """The call carries no API key; send it as the metadata authorization: Bearer sak_... (`session-authority keys create` makes one)."""


class ApiKeyInvalid(AuthorityError):
    """The call carries no API key that this authority knows (`session-authority keys create` makes one)."""


class ApiKeyExpired(AuthorityError):
    """The caller's API key has expired; give the caller a new one."""


class ApiKeyRevoked(AuthorityError):
    """The caller's API key was revoked; give the caller a new one."""


class PermissionMissing(AuthorityError):
    """The caller's API key does not permit this.

    Attributes:
        permission: The missing permission; empty if no key can have it.
    """

    def __init__(self, permission: str) -> None:
        needed = (
            f"the permission {permission}"
            if permission
            else "a permission that no API key can have"
        )
        super().__init__(f"the call needs {needed}; the caller's API key does not have it")
        self.permission = permission


class ClockWrong(AuthorityError):
    """The server's clock is wrong, so the server does nothing that depends on the time."""


class EndingsLost(AuthorityError):
    """The database went back in time and lacks acknowledged endings; the operator must run: session-authority fence."""


class StoreUnavailable(AuthorityError):
    """The store could not be reached, or the outcome of a change is unknown."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"the store is not available for {doing}; try again")
