"""What the domain and its use-cases raise. `rpc/error_table.py` says how each is answered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from session_authority_server.domain.event import CredentialRejected
from session_authority_server.domain.session import Session

# Callers drop an answer whose metadata exceeds 8 KiB, and then learn nothing at all. A violation takes up to 850
# bytes: it is told twice in words, once in a form that triples what is not ASCII, and once by its field.
VIOLATIONS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request, and how to correct it."""

    field: str
    description: str


class AuthorityError(Exception):
    """The authority can't do what was asked.

    The first line of a subclass's docstring is its message, unless the message names something of the call.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(_message_from_docstring(type(self)) if message is None else message)


def _message_from_docstring(kind: type) -> str:
    if not kind.__doc__:  # `python -OO` has no docstrings; the name says what, if not what to do
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    [summary, *_] = kind.__doc__.splitlines()
    return summary[:1].lower() + summary[1:].removesuffix(".")


class InvalidRequest(AuthorityError):
    """The request breaks a documented limit or form.

    Attributes:
        violations: What is wrong, VIOLATIONS_LIMIT at most. Of more, the message says only how many.
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
        problem = "was used before with other parameters; make a fresh one for each new attempt"
        super().__init__([Violation("retry_secret", problem)])


class SessionNotLive(AuthorityError):
    """The session token names no live session; the user must sign in.

    Attributes:
        rejected: What to tell the audit log, and nobody else, where the token is not the session's.
        superseded: The session whose token it was, if its secret is one that was superseded.
    """

    def __init__(
        self, *, rejected: CredentialRejected | None = None, superseded: Session | None = None
    ) -> None:
        super().__init__()
        self.rejected = rejected
        self.superseded = superseded


class SessionNotFound(AuthorityError):
    """The user has no session of this id."""


class AuthenticationTooOld(AuthorityError):
    """The credential check began before all of the user's sessions were ended; the user must sign in again.

    Attributes:
        swept_time: When the sessions were ended.
        user_id: The user.
    """

    def __init__(self, swept_time: datetime, user_id: str = "") -> None:
        super().__init__()
        self.swept_time = swept_time
        self.user_id = user_id


class ReauthenticationRequired(AuthorityError):
    """The proof of identity is older than the policy allows for what is asked."""

    def __init__(self, max_age: timedelta) -> None:
        super().__init__(
            f"the user last proved who they are more than {max_age.total_seconds():.0f} s ago; "
            "let them re-authenticate, and ask again with the new token"
        )
        self.max_age = max_age


class ImpersonationForbidden(AuthorityError):
    """The session is that of somebody who acts as the user; they may neither list the user's sessions nor revoke them."""


class SessionLimitReached(AuthorityError):
    """The user has as many live sessions as the policy allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the user has {limit} live sessions, the most that the policy allows; "
            "one must end before another begins"
        )
        self.limit = limit


class RetryStale(AuthorityError):
    """An earlier call with this retry_secret succeeded, but its session has since ended or got another token; begin anew with a fresh retry_secret."""


class ApiKeyMissing(AuthorityError):
    """The call carries no API key; send it as the metadata authorization: Bearer sak_... (`session-authority keys create` makes one)."""


class ApiKeyInvalid(AuthorityError):
    """The call carries no API key that this authority knows (`session-authority keys create` makes one)."""


class ApiKeyExpired(AuthorityError):
    """The caller's API key has expired; it needs another one."""


class ApiKeyRevoked(AuthorityError):
    """The caller's API key was revoked; it needs another one."""


class PermissionMissing(AuthorityError):
    """The caller's API key does not permit this.

    Attributes:
        permission: What it would have to permit; empty where no key can.
    """

    def __init__(self, permission: str) -> None:
        needed = f"the permission {permission}" if permission else "what no key permits"
        super().__init__(f"the call needs {needed}, which the caller's API key doesn't give")
        self.permission = permission


class ClockWrong(AuthorityError):
    """The machine's clock can't be right, so nothing that depends on the time is done."""


class StoreUnavailable(AuthorityError):
    """The store could not be reached, or whether it made a change is not known."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"the store is not available for {doing}; try again")
