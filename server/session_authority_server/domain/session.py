from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from uuid import UUID

from session_authority_server.domain.device import Device

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class EndReason(Enum):
    """Why a session ended."""

    SIGNED_OUT = "signed_out"
    REVOKED = "revoked"
    EXPIRED = "expired"
    IDLE_TIMEOUT = "idle_timeout"
    LIMIT = "limit"


class InitiatingEntity(Enum):
    """Who brought a session's end about, in the words of OpenID CAEP."""

    ADMIN = "admin"
    USER = "user"
    POLICY = "policy"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Ending:
    """When, why and by whom a session ended."""

    time: datetime
    reason: EndReason
    initiated_by: InitiatingEntity


@dataclass(frozen=True, slots=True)
class Sweep:
    """An "end everything" that covers one user's sessions or everybody's; the reason is for operators."""

    time: datetime
    initiated_by: InitiatingEntity
    reason: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One sign-in of one user on one device, as the store holds it.

    `user_epoch` and `global_epoch` are what they were when the session was made; the `current_` ones are
    what they are now. `sweep` is the earliest one that covers the session, and dates it; whether one does,
    the epochs alone decide.

    `actor_id` is who signed in as the user, where it was somebody else. `user_agent` is as given at sign-in; it is kept, but not read back.

    Not frozen, because a validation builds one and that would double its cost; nothing changes one.
    Compared by identity, so that what follows from one can be remembered with it.
    """

    session_id: UUID
    user_id: str
    secret_hash: bytes = field(repr=False)
    superseded_hashes: bytes = field(default=b"", repr=False)
    device: Device
    user_agent: str = ""
    ip_address: str | None
    last_ip_address: str | None
    create_time: datetime
    authenticate_time: datetime
    authentication_methods: tuple[str, ...]
    last_active_time: datetime
    lifetime: timedelta
    expire_time: datetime
    idle_timeout: timedelta | None
    attributes: Mapping[str, str]
    created_by: str = ""
    actor_id: str | None = None
    user_epoch: int = 0
    global_epoch: int = 0
    current_user_epoch: int = 0
    current_global_epoch: int = 0
    sweep: Sweep | None = None
    ending: Ending | None = None

    @property
    def renewed_time(self) -> datetime:
        """When the session's present token was given out: at sign-in, or at the latest re-authentication."""
        return self.expire_time - self.lifetime

    @property
    def idle_expire_time(self) -> datetime | None:
        """When the session ends for want of use, were it not used again."""
        return None if self.idle_timeout is None else self.last_active_time + self.idle_timeout
