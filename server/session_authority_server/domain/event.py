"""Events of sessions and credentials, for the audit log. They contain no token and no hash of one."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from session_authority_server.domain.session import Ending, Session, Sweep


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """A user signed in."""

    session: Session

    @property
    def time(self) -> datetime:
        """The time of the event."""
        return self.session.create_time


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session ended, for any reason. Each session ends with one such event.

    Attributes:
        session_id: The session.
        user_id: Its user.
        ending: The time, the reason and the initiator of the end.
        why: The reason that an operator gave.
    """

    session_id: UUID
    user_id: str
    ending: Ending
    why: str = ""

    @property
    def time(self) -> datetime:
        """The time of the end. It may be long before the worker records the event."""
        return self.ending.time


@dataclass(frozen=True, slots=True)
class SessionsSwept:
    """All sessions of a user or of everybody were ended at once. A SessionEnded for each session follows.

    Attributes:
        user_id: The user; empty for everybody.
        sweep: The time and the initiator of the end.
        kept: The session that stays live, if any.
        why: The reason that an operator gave.
    """

    user_id: str
    sweep: Sweep
    kept: UUID | None = None
    why: str = ""

    @property
    def time(self) -> datetime:
        """The time of the event."""
        return self.sweep.time


@dataclass(frozen=True, slots=True)
class SessionReauthenticated:
    """A user proved their identity again, and the session got a new token.

    Attributes:
        session: The session as it is now.
        time: The time of the event.
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
    """A caller presented a well-formed token that does not prove its session, or no longer does.

    Attributes:
        session_id: The session that the token names.
        user_id: The session's user; empty if the session is unknown.
        fault: Superseded by a re-authentication, forged (wrong secret) or unknown (no such session).
        time: When the token was presented.
    """

    session_id: UUID
    user_id: str
    fault: CredentialFault
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyCreated:
    """An API key was created."""

    key_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyExpirySet:
    """The expiry time of an API key was set, or moved to an earlier time.

    Attributes:
        key_id: The key.
        expire_time: When it expires.
        time: The time of the event.
    """

    key_id: str
    expire_time: datetime
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """An API key was revoked."""

    key_id: str
    time: datetime


class FenceChoice(Enum):
    """How an operator dealt with endings that the database lacked."""

    REPLAY = "replay"
    END_ALL = "end-all"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class FenceResolved:
    """An operator dealt with acknowledged endings that the database lacked.

    Attributes:
        choice: The choice of the operator.
        lost: How many lost endings were found. There may be more.
        time: The time of the event.
    """

    choice: FenceChoice
    lost: int
    time: datetime


class ReceiverChange(Enum):
    """The way in which a receiver of events was changed."""

    ADDED = "added"
    PAUSED = "paused"
    RESUMED = "resumed"
    REPLAYED = "replayed"
    ROTATED = "rotated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class ReceiverChanged:
    """An operator changed a receiver of events, or a receiver changed its own stream.

    Attributes:
        name: The name of the receiver.
        change: The change.
        time: The time of the event.
        by_itself: Whether the receiver made the change.
    """

    name: str
    change: ReceiverChange
    time: datetime
    by_itself: bool = False


Event = (
    SessionEstablished
    | SessionEnded
    | SessionsSwept
    | SessionReauthenticated
    | CredentialRejected
    | KeyCreated
    | KeyExpirySet
    | KeyRevoked
    | FenceResolved
    | ReceiverChanged
)
