"""What the authority says about sessions, as immutable values. All times are aware, in UTC."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias, final

from session_authority.session_token import SessionToken, Token

IpAddress: TypeAlias = str | IPv4Address | IPv6Address | None


class SessionState(StrEnum):
    """Whether a session is live."""

    ACTIVE = "active"
    """Its token is accepted."""
    ENDED = "ended"
    """It will never be live again."""
    UNKNOWN = "unknown"
    """A state that this version of the library does not know."""


class DeviceType(StrEnum):
    """The kind of thing a user signed in with."""

    DESKTOP = "desktop"
    PHONE = "phone"
    TABLET = "tablet"
    APPLIANCE = "appliance"
    """A television, console, watch or the like."""
    SCRIPT = "script"
    """A program without a browser."""
    BOT = "bot"
    """A self-declared crawler."""
    UNKNOWN = "unknown"
    """The user agent does not tell, or this version of the library does not know the kind."""


class EndReason(StrEnum):
    """Why a session ended."""

    SIGNED_OUT = "signed_out"
    """The user signed out of it."""
    REVOKED = "revoked"
    """It was ended from elsewhere: by its user on another device, or by an operator."""
    EXPIRED = "expired"
    """Its absolute lifetime ran out."""
    IDLE_TIMEOUT = "idle_timeout"
    """It was not used for as long as its idle timeout."""
    LIMIT = "limit"
    """A newer sign-in took its place at the limit of live sessions."""
    UNKNOWN = "unknown"
    """A reason that this version of the library does not know."""


class InitiatingEntity(StrEnum):
    """Who brought about the end of a session."""

    ADMIN = "admin"
    """An operator."""
    USER = "user"
    """The user whose session it was."""
    POLICY = "policy"
    """A timeout, a lifetime or a limit."""
    SYSTEM = "system"
    """The authority's own upkeep."""
    UNKNOWN = "unknown"
    """Someone that this version of the library does not know."""


class RejectionReason(StrEnum):
    """Why a token is not accepted."""

    NOT_FOUND = "not_found"
    """The token is absent, malformed, unknown or forged, or its session is no longer in the history."""
    SIGNED_OUT = "signed_out"
    """The user signed out of the session."""
    REVOKED = "revoked"
    """The session was ended from elsewhere."""
    EXPIRED = "expired"
    """The absolute lifetime has run out."""
    IDLE_TIMEOUT = "idle_timeout"
    """The session was not used for as long as its idle timeout."""
    LIMIT = "limit"
    """A newer sign-in took its place at the limit of live sessions."""
    SUPERSEDED = "superseded"
    """The session has a newer token, given out when its user re-authenticated. It may well be live."""
    USER_MISMATCH = "user_mismatch"
    """The session is live but not that of the `user_id` asked for."""
    UNKNOWN = "unknown"
    """A reason that the authority did not give, or that this version of the library does not know."""


@final
class Attributes(Mapping[str, str]):
    """An immutable mapping that, unlike `MappingProxyType`, hashes, copies and pickles."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, str] | None = None) -> None:
        self._entries = dict(entries or {})

    def __getitem__(self, key: str) -> str:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(frozenset(self._entries.items()))

    def __repr__(self) -> str:
        return repr(self._entries)


@dataclass(frozen=True, slots=True)
class Device:
    """What a user signed in with, as far as its user agent tells; empty where it does not.

    Attributes:
        browser: The browser or app, for example "Chrome".
        browser_version: Its version, for example "140.0".
        os: The operating system, for example "Windows".
        os_version: Its version, for example "17.5".
        type: What kind of thing it is.
        display_name: A short name for people, for example "Chrome on Windows".
    """

    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    type: DeviceType = DeviceType.UNKNOWN
    display_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in of one user on one device. It never carries a token, and it is truthy.

    Attributes:
        session_id: Identifies the session; not a secret, proves nothing.
        user_id: Whose session it is, as the app named the user at sign-in.
        state: Whether it was live at the moment of the answer.
        current: Whether it is the session whose token made the request.
        device: What the user signed in with.
        ip_address: The IP address at sign-in; None where not given or not kept.
        last_ip_address: The IP address of the latest recorded activity; None where not known.
        create_time: When the user signed in.
        authenticate_time: When the credential check behind the latest sign-in or
            re-authentication began.
        authentication_methods: How the user proved who they are, in the names of RFC 8176.
        last_active_time: When it was last used, exact to the policy's resolution (60 seconds).
        expire_time: When it ends by its absolute lifetime, however much it is used.
        idle_expire_time: When it ends for want of use; None without an idle timeout.
        end_time: When it ended; None while live.
        end_reason: Why it ended; None while live.
        initiating_entity: Who ended it; None while live.
        attributes: What the app attached at sign-in. Immutable.
        actor_id: Who signed in as the user; None where the user did.
    """

    session_id: str
    user_id: str
    state: SessionState
    current: bool
    device: Device
    ip_address: str | None = None
    last_ip_address: str | None = None
    create_time: datetime
    authenticate_time: datetime
    authentication_methods: tuple[str, ...] = ()
    last_active_time: datetime
    expire_time: datetime
    idle_expire_time: datetime | None = None
    end_time: datetime | None = None
    end_reason: EndReason | None = None
    initiating_entity: InitiatingEntity | None = None
    attributes: Mapping[str, str] = field(default_factory=Attributes)
    actor_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attributes, Attributes):
            object.__setattr__(self, "attributes", Attributes(self.attributes))

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Rejection:
    """The answer that a token is not accepted. It is falsy, so that `if session := ...` reads well.

    Attributes:
        reason: Why it is not.
    """

    reason: RejectionReason

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session with the token that the authority shows this once.

    Attributes:
        session: The session.
        token: Its token, to hand to the user's device.
    """

    session: Session
    token: SessionToken


@dataclass(frozen=True, slots=True)
class RevokedSession:
    """The outcome of a revocation.

    Attributes:
        session: The session as it is now: ended.
        effective_time: After this moment no validator anywhere, cached or not, accepts it.
        already_ended: Whether it had ended before, so that nothing changed.
    """

    session: Session
    effective_time: datetime
    already_ended: bool


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """One question to `validate_many`, with the meaning of the arguments of `validate`.

    Attributes:
        token: The token that the user's device presented; None or empty where it presented none.
        ip_address: The IP address that it came from, recorded as the latest one.
        user_id: Where given, the session must be this user's.
        passive: Whether the look-up must not count as activity.
    """

    token: Token = field(repr=False)
    ip_address: IpAddress = None
    user_id: str | None = None
    passive: bool = False
