"""Sessions and answers of the authority, as immutable values. All times are aware datetimes in UTC."""

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
    """Its token is rejected. The session never becomes live again."""
    UNKNOWN = "unknown"
    """A state that this version of the library does not know."""


class DeviceType(StrEnum):
    """The kind of device that a user signed in with."""

    DESKTOP = "desktop"
    PHONE = "phone"
    TABLET = "tablet"
    APPLIANCE = "appliance"
    """A television, console, watch or similar device."""
    SCRIPT = "script"
    """A program without a browser."""
    BOT = "bot"
    """A self-declared crawler."""
    UNKNOWN = "unknown"
    """The user agent does not show the kind, or this version of the library does not know it."""


class EndReason(StrEnum):
    """Why a session ended."""

    SIGNED_OUT = "signed_out"
    """The user signed out of it."""
    REVOKED = "revoked"
    """It was ended from elsewhere: by its user on another device, or by an operator."""
    EXPIRED = "expired"
    """Its absolute lifetime is over."""
    IDLE_TIMEOUT = "idle_timeout"
    """It was not used for the length of its idle timeout."""
    LIMIT = "limit"
    """A newer sign-in replaced it at the limit of live sessions."""
    UNKNOWN = "unknown"
    """A reason that this version of the library does not know."""


class InitiatingEntity(StrEnum):
    """The party that ended a session."""

    ADMIN = "admin"
    """An operator."""
    USER = "user"
    """The session's own user."""
    POLICY = "policy"
    """A timeout, a lifetime or a limit."""
    SYSTEM = "system"
    """The authority's own upkeep."""
    UNKNOWN = "unknown"
    """A party that this version of the library does not know."""


class RejectionReason(StrEnum):
    """Why a token is invalid."""

    NOT_FOUND = "not_found"
    """The token is absent, malformed, unknown or forged, or its session is no longer in the history."""
    SIGNED_OUT = "signed_out"
    """The user signed out of the session."""
    REVOKED = "revoked"
    """The session was ended from elsewhere."""
    EXPIRED = "expired"
    """The absolute lifetime is over."""
    IDLE_TIMEOUT = "idle_timeout"
    """The session was not used for the length of its idle timeout."""
    LIMIT = "limit"
    """A newer sign-in replaced the session at the limit of live sessions."""
    SUPERSEDED = "superseded"
    """The session got a newer token when its user re-authenticated. It may still be live."""
    USER_MISMATCH = "user_mismatch"
    """The session is live but belongs to another user than the `user_id` of the request."""
    UNKNOWN = "unknown"
    """A reason that the authority did not give, or that this version of the library does not know."""


@final
class Attributes(Mapping[str, str]):
    """An immutable mapping. Unlike `MappingProxyType`, it can be hashed, copied and pickled."""

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
    """The device that a user signed in with. A text is empty if the user agent does not show it.

    Attributes:
        browser: The browser or app, for example "Chrome".
        browser_version: Its version, for example "140.0".
        os: The operating system, for example "Windows".
        os_version: Its version, for example "17.5".
        type: The kind of device.
        display_name: A short name for people, for example "Chrome on Windows".
    """

    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    type: DeviceType = DeviceType.UNKNOWN
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """The place that an IP address probably belongs to, with English names. A text is empty if unknown.

    Attributes:
        city: The city, for example "Hamburg".
        region: The largest subdivision of the country, for example "California".
        country: The country, for example "Germany".
        country_code: The country by ISO 3166-1, for example "DE".
    """

    city: str = ""
    region: str = ""
    country: str = ""
    country_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in of one user on one device. It contains no token, and it is truthy.

    Attributes:
        session_id: The id of the session. It is not a secret and proves nothing.
        user_id: The user's id, as the app gave it at sign-in.
        state: Whether the session was live at the time of the answer.
        current: Whether it is the session of the token that made the request.
        device: The device that the user signed in with.
        ip_address: The IP address at sign-in; None if not given or not kept.
        last_ip_address: The IP address of the latest recorded activity; None if not known.
        create_time: When the user signed in.
        authenticate_time: When the credential check of the latest sign-in or re-authentication began.
        authentication_methods: How the user proved who they are, in the names of RFC 8176.
        last_active_time: When it was last used, exact to the policy's resolution (60 seconds unless configured).
        expire_time: When its absolute lifetime is over, even if it is in use.
        idle_expire_time: When its idle timeout is over, unless it is used before; None without an idle timeout.
        end_time: When it ended; None while live.
        end_reason: Why it ended; None while live.
        initiating_entity: The party that ended it; None while live.
        attributes: The texts that the app attached at sign-in. Immutable.
        actor_id: The id of the person who signed in as the user; None if the user signed in.
        new_device: Whether the user had no earlier session with the same browser, system and device type.
        label: The user's own name of the session; None without one.
        location: Where the latest IP address probably is. Only lists contain it; None if not known.
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
    new_device: bool = False
    label: str | None = None
    location: Location | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attributes, Attributes):
            object.__setattr__(self, "attributes", Attributes(self.attributes))

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's sign-in at an identity provider, in the words of the provider's ID token.

    Attributes:
        issuer: The provider: the claim `iss`.
        subject: The user: the claim `sub`.
        sid: The user's session at the provider: the claim `sid`; None if the token has none.
    """

    issuer: str
    subject: str
    sid: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """The answer that a token is invalid. It is falsy, so that `if session := client.validate(token)` works.

    Attributes:
        reason: Why the token is invalid.
    """

    reason: RejectionReason

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session and its new token, which the authority returns only once.

    Attributes:
        session: The session.
        token: The token, to send to the user's device.
    """

    session: Session
    token: SessionToken


@dataclass(frozen=True, slots=True)
class RevokedSession:
    """The outcome of a revocation.

    Attributes:
        session: The session as it is now: ended.
        effective_time: After this moment no validator anywhere, cached or not, accepts it.
        already_ended: Whether the session had ended before. If so, the call changed nothing.
    """

    session: Session
    effective_time: datetime
    already_ended: bool


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """One request of `validate_many`. The attributes mean the same as the arguments of `validate`.

    Attributes:
        token: The token that the user's device presented; None or empty if there was none.
        ip_address: The IP address that the token came from. It is recorded as the latest one.
        user_id: If given, a session of another user is rejected.
        passive: Whether the look-up is not caused by the user. It then doesn't count as activity.
    """

    token: Token = field(repr=False)
    ip_address: IpAddress = None
    user_id: str | None = None
    passive: bool = False
