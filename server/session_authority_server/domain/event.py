"""What happened to sessions and credentials, for the audit log. Events hold no token and no hash of one."""

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
        """When it happened."""
        return self.session.create_time


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session ended, for any reason. Each session ends with one such event.

    Attributes:
        session_id: The session.
        user_id: Its user.
        ending: When, why and by whom it was ended.
        why: The reason that an operator gave.
    """

    session_id: UUID
    user_id: str
    ending: Ending
    why: str = ""

    @property
    def time(self) -> datetime:
        """When it ended. That may be long before the worker found it."""
        return self.ending.time


@dataclass(frozen=True, slots=True)
class SessionsSwept:
    """All sessions of a user, or of everybody, were ended at once. A SessionEnded for each follows later.

    Attributes:
        user_id: The user; empty for everybody.
        sweep: When and by whom they were ended.
        kept: The session that was spared, if one was.
        why: The reason that an operator gave.
    """

    user_id: str
    sweep: Sweep
    kept: UUID | None = None
    why: str = ""

    @property
    def time(self) -> datetime:
        """When it happened."""
        return self.sweep.time


@dataclass(frozen=True, slots=True)
class SessionReauthenticated:
    """A user proved again who they are, and the session's token was replaced.

    Attributes:
        session: The session as it is now.
        time: When it happened.
    """

    session: Session
    time: datetime


class CredentialFault(Enum):
    """Why a token does not prove its session."""

    SUPERSEDED = "superseded"
    FORGED = "forged"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CredentialRejected:
    """A caller presented a well-formed token that does not, or no longer, prove its session.

    Attributes:
        session_id: The session that the token names.
        user_id: The session's user; empty if the session is unknown.
        fault: Superseded by a re-authentication, forged with a wrong secret, or of an unknown session.
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
class KeyExpirySet:
    """An API key was given an expiry time, or an earlier one.

    Attributes:
        key_id: The key.
        expire_time: When it expires.
        time: When it was given that time.
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
    | KeyExpirySet
    | KeyRevoked
)
