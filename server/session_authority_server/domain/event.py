"""What happened to sessions and credentials, for the audit log. Never a token, and never a hash of one."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from session_authority_server.domain.session import Ending, Session, Sweep


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """Somebody signed in."""

    session: Session

    @property
    def time(self) -> datetime:
        """When that was."""
        return self.session.create_time


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session ended, in whatever way. Of each session there is one.

    Attributes:
        session_id: Which it was.
        user_id: Whose.
        ending: When, why and by whom.
        why: What an operator who ended it gave as the reason.
    """

    session_id: UUID
    user_id: str
    ending: Ending
    why: str = ""

    @property
    def time(self) -> datetime:
        """When it ended, which may be long before anybody noticed."""
        return self.ending.time


@dataclass(frozen=True, slots=True)
class SessionsSwept:
    """All of a user's sessions were ended at once, or everybody's; that each of them ended is told later.

    Attributes:
        user_id: Whose; empty for everybody's.
        sweep: When and by whom.
        kept: The session that was spared, if one was.
        why: What the one who did it gave as the reason.
    """

    user_id: str
    sweep: Sweep
    kept: UUID | None = None
    why: str = ""

    @property
    def time(self) -> datetime:
        """When that was."""
        return self.sweep.time


@dataclass(frozen=True, slots=True)
class SessionReauthenticated:
    """A user proved again who they are, and the session's token was replaced.

    Attributes:
        session: The session as it is now.
        time: When that was.
    """

    session: Session
    time: datetime


class CredentialFault(Enum):
    """What is wrong with a token whose session is none, or another's."""

    SUPERSEDED = "superseded"
    FORGED = "forged"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CredentialRejected:
    """A well-formed token was presented that is not, or no longer, the session's.

    Attributes:
        session_id: The session that the token names.
        user_id: Whose that session is; empty where there is none.
        fault: A token that was replaced by a re-authentication, one with a wrong secret, or one of an
            unknown session.
        time: When it was presented.
    """

    session_id: UUID
    user_id: str
    fault: CredentialFault
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyCreated:
    """An API key was made."""

    key_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyGivenEnd:
    """An API key was given an end, or an earlier one.

    Attributes:
        key_id: Which.
        expire_time: When it is good no more.
        time: When it was given that.
    """

    key_id: str
    expire_time: datetime
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """An API key was revoked."""

    key_id: str
    time: datetime


Event = (
    SessionEstablished
    | SessionEnded
    | SessionsSwept
    | SessionReauthenticated
    | CredentialRejected
    | KeyCreated
    | KeyGivenEnd
    | KeyRevoked
)
