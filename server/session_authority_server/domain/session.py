from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from uuid import UUID

from session_authority_server.domain.device import Device

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class EndReason(Enum):
    """Why a session ended.

    The store keeps the position of a member: append members, and never reorder them. CONTRIBUTING.md lists what a new
    reason needs.
    """

    SIGNED_OUT = "signed_out"
    REVOKED = "revoked"
    EXPIRED = "expired"
    IDLE_TIMEOUT = "idle_timeout"
    LIMIT = "limit"


class InitiatingEntity(Enum):
    """The party that ended a session, in the terms of OpenID CAEP.

    The store keeps the position of a member: append members, and never reorder them.
    """

    ADMIN = "admin"
    USER = "user"
    POLICY = "policy"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Ending:
    """The time, the reason and the initiator of a session's end."""

    time: datetime
    reason: EndReason
    initiated_by: InitiatingEntity


@dataclass(frozen=True, slots=True)
class Sweep:
    """The end of all sessions of one user or of everybody. `reason` is the text that an operator gave."""

    time: datetime
    initiated_by: InitiatingEntity
    reason: str = ""


@dataclass(slots=True, eq=False)
class Session:
    """One sign-in of one user on one device, as the store keeps it.

    * `actor_id` is the person who acts as the user; None if the user signed in.
    * `user_epoch` and `global_epoch` are the epochs at the session's creation. The `current_` ones are the present
      epochs. These four alone decide whether a sweep covers the session.
    * `sweep` is the earliest sweep that covers the session. It gives the time of the end.
    * `new_device` is decided by the INSERT. `label` is the user's own name of the session; None without one.
    * `user_agent` and the hashes of the identity are written at sign-in and never read.

    Not frozen, because each validation creates a session and freezing doubles the cost. No code changes a session.
    Sessions are compared by identity, so that they can be keys of a cache. The store reads the columns in the order of
    these fields, and does not read the fields after `ending`.
    """

    session_id: UUID
    user_id: str
    secret_hash: bytes = field(repr=False)
    device: Device
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
    superseded_hashes: bytes = field(default=b"", repr=False)
    created_by: str = ""
    actor_id: str | None = None
    new_device: bool = False
    label: str | None = None
    user_epoch: int = 0
    global_epoch: int = 0
    current_user_epoch: int = 0
    current_global_epoch: int = 0
    ending: Ending | None = None
    sweep: Sweep | None = None
    user_agent: str = ""
    subject_hash: bytes | None = field(default=None, repr=False)
    sid_hash: bytes | None = field(default=None, repr=False)

    @property
    def renewed_time(self) -> datetime:
        """When the session got its present token: at sign-in or at the latest re-authentication."""
        return self.expire_time - self.lifetime

    @property
    def idle_expire_time(self) -> datetime | None:
        """When the session ends if it is not used again."""
        return None if self.idle_timeout is None else self.last_active_time + self.idle_timeout


@dataclass(slots=True)
class Changes:
    """Sessions whose cached answers are now invalid: they ended, or got another token.

    Attributes:
        session_ids: Single sessions.
        user_ids: Users all of whose sessions changed.
        everybody: Whether all sessions changed.
    """

    session_ids: set[UUID] = field(default_factory=set)
    user_ids: set[str] = field(default_factory=set)
    everybody: bool = False

    def __bool__(self) -> bool:
        return self.everybody or bool(self.session_ids or self.user_ids)

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.session_ids) + len(self.user_ids)

    def add(self, other: "Changes") -> None:
        """Merge `other` into this set."""
        self.session_ids |= other.session_ids
        self.user_ids |= other.user_ids
        self.everybody = self.everybody or other.everybody
