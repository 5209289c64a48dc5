"""Events that the authority sends to a receiver: verified, and as values.

    event = events.verify(request.headers, await request.body(), secrets)
    match event:
        case events.NewDevice():
            await warn(event.user_id, event.device, event.location)

The authority delivers an event at least once: ignore an `event_id` that was handled before. Events of a user arrive in
their order.
"""

import hmac
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from session_authority.errors import ConfigurationError, EventRejected, InternalError
from session_authority.session import Device, DeviceType, EndReason, InitiatingEntity, Location

TOLERANCE = timedelta(minutes=5)
"""The largest difference between the time at which an event was sent and this machine's time."""

_SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret
_TIMESTAMP = re.compile(r"[0-9]{1,11}")
_NOTHING: Mapping[str, Any] = {}

_Enum = TypeVar("_Enum", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a session or a user.

    Attributes:
        event_id: The id of the event. An event that arrives twice has the same id.
        time: When it happened.
    """

    event_id: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _SignIn(Event):
    """The session that a sign-in created.

    Attributes:
        user_id: The user.
        session_id: The session.
        create_time: When the user signed in.
        authenticate_time: When the credential check began.
        expire_time: When the absolute lifetime of the session is over.
        authentication_methods: How the user proved who they are, in the names of RFC 8176.
        device: The device. Its versions are empty.
        new_device: Whether the user had no earlier session with the same browser, system and device type.
        actor_id: The id of the person who signed in as the user; None if the user signed in.
        ip_address: The IP address; None if not given or not kept.
        location: Where the IP address probably is; None if not known.
    """

    user_id: str
    session_id: str
    create_time: datetime
    authenticate_time: datetime
    expire_time: datetime
    authentication_methods: tuple[str, ...]
    device: Device
    new_device: bool
    actor_id: str | None
    ip_address: str | None
    location: Location | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEstablished(_SignIn):
    """A user signed in. The attributes are those of the new session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice(_SignIn):
    """A user signed in, and no session in the user's history has the same browser, system and device type.

    The attributes are those of the new session.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session ended.

    Attributes:
        user_id: The user.
        session_id: The session.
        end_time: When it ended.
        reason: Why it ended.
        initiating_entity: The party that ended it.
        effective_time: After this moment no validator anywhere, cached or not, accepts it.
    """

    user_id: str
    session_id: str
    end_time: datetime
    reason: EndReason
    initiating_entity: InitiatingEntity
    effective_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsSwept(Event):
    """All sessions of a user or of everybody ended at once. No SessionEnded follows for each of them.

    Attributes:
        user_id: The user; None for everybody.
        sweep_time: When the sessions ended.
        initiating_entity: The party that ended them.
        effective_time: After this moment no validator anywhere, cached or not, accepts them.
        kept_session_id: The session that stays live; None if there is none.
    """

    user_id: str | None
    sweep_time: datetime
    initiating_entity: InitiatingEntity
    effective_time: datetime
    kept_session_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthenticated(Event):
    """A user proved their identity again.

    Attributes:
        user_id: The user.
        session_id: The session, which has a new token.
        authenticate_time: When the credential check began.
        authentication_methods: How the user proved who they are, in the names of RFC 8176.
    """

    user_id: str
    session_id: str
    authenticate_time: datetime
    authentication_methods: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupersededTokenUsed(Event):
    """A program presented a token after the grace period that follows its replacement. The token may be stolen.

    Attributes:
        user_id: The user.
        session_id: The session.
    """

    user_id: str
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserErased(Event):
    """The authority deletes all data of a user. Delete what was received about the user.

    Attributes:
        user_id: The user.
    """

    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEvent(Event):
    """An operator ran `session-authority receivers test`.

    Attributes:
        receiver: The name of the receiver.
    """

    __test__ = False  # pytest must not collect it
    receiver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a type that this version of the library does not know.

    Attributes:
        type: The name of the type.
        data: Its content.
    """

    type: str
    data: Mapping[str, Any]


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secrets: str | Sequence[str],
    *,
    now: datetime | None = None,
) -> Event:
    """Return the event of a request, if the authority sent it within the last five minutes.

    Args:
        headers: The headers of the request. The case of their names does not matter.
        body: The content of the request, exactly as it arrived.
        secrets: The secret that `session-authority receivers add` printed (`whsec_...`), or several while it is rotated.
        now: The present time. By default, this machine's time.

    Raises:
        EventRejected: If the request is not signed with one of the secrets, or is too old. Answer 400.
        ConfigurationError: If a secret is malformed, or there is none.
        InternalError: If the library does not understand the event of the authority.
    """
    keys = [_key(each) for each in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ConfigurationError("secrets", "must contain at least one text")
    given = {name.lower(): value for name, value in headers.items()}
    event_id, sent_at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    content = body.encode() if isinstance(body, str) else body
    signed = f"{event_id}.{sent_at}.".encode("utf-8", "replace") + content
    if not _is_signed(signed, given.get("webhook-signature", ""), keys):
        raise EventRejected("no signature matches")
    # After the signature, so that only the authority's own requests get a reason that depends on their content.
    _check_time(sent_at, now or datetime.now(UTC))  # noqa: TID251 - the default
    return _event(event_id, content)


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(_SECRET_PREFIX)
    try:
        key = b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if not key or encoded == secret:
        raise ConfigurationError("secrets", "must be texts that begin with whsec_") from None
    return key


def _is_signed(signed: bytes, signatures: str, keys: Sequence[bytes]) -> bool:
    presented = signatures.encode("utf-8", "replace").split()
    expected = [b"v1," + b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    return any(hmac.compare_digest(one, other) for one in presented for other in expected)


def _check_time(sent_at: str, now: datetime) -> None:
    if not _TIMESTAMP.fullmatch(sent_at):
        raise EventRejected("the time is missing")
    age = now - datetime.fromtimestamp(int(sent_at), UTC)
    if abs(age) > TOLERANCE:
        minutes = TOLERANCE.total_seconds() / 60
        raise EventRejected(f"its time differs from this machine's by over {minutes:.0f} minutes")


def _event(event_id: str, content: bytes) -> Event:
    try:
        message = json.loads(content)
        kind, data = message["type"], message["data"]
        head: dict[str, Any] = {"event_id": event_id, "time": _time(message, "timestamp")}
        read = _READERS.get(kind)
        if read is None:
            return UnknownEvent(**head, type=kind, data=data)
        return read(head, data)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InternalError("the event has no known form")


def _read_sign_in(kind: type[_SignIn], head: Mapping[str, Any], data: Mapping[str, Any]) -> _SignIn:
    device, location = data.get("device", _NOTHING), data.get("location")
    return kind(
        **head,
        user_id=data["user_id"],
        session_id=data["session_id"],
        create_time=_time(data, "create_time"),
        authenticate_time=_time(data, "authenticate_time"),
        expire_time=_time(data, "expire_time"),
        authentication_methods=tuple(data["authentication_methods"]),
        device=Device(
            browser=device.get("browser", ""),
            os=device.get("os", ""),
            type=_known(DeviceType, device.get("type", "")),
            display_name=device.get("display_name", ""),
        ),
        new_device=data["new_device"],
        actor_id=data.get("actor_id"),
        ip_address=data.get("ip_address"),
        location=None if location is None else _location(location),
    )


def _location(data: Mapping[str, Any]) -> Location:
    return Location(
        city=data.get("city", ""),
        region=data.get("region", ""),
        country=data.get("country", ""),
        country_code=data.get("country_code", ""),
    )


def _read_session_ended(head: Mapping[str, Any], data: Mapping[str, Any]) -> SessionEnded:
    return SessionEnded(
        **head,
        user_id=data["user_id"],
        session_id=data["session_id"],
        end_time=_time(data, "end_time"),
        reason=_known(EndReason, data["reason"]),
        initiating_entity=_known(InitiatingEntity, data["initiating_entity"]),
        effective_time=_time(data, "effective_time"),
    )


def _read_sessions_swept(head: Mapping[str, Any], data: Mapping[str, Any]) -> SessionsSwept:
    return SessionsSwept(
        **head,
        user_id=None if data.get("everybody") else data["user_id"],
        sweep_time=_time(data, "sweep_time"),
        initiating_entity=_known(InitiatingEntity, data["initiating_entity"]),
        effective_time=_time(data, "effective_time"),
        kept_session_id=data.get("kept_session_id"),
    )


def _read_reauthenticated(head: Mapping[str, Any], data: Mapping[str, Any]) -> Reauthenticated:
    return Reauthenticated(
        **head,
        user_id=data["user_id"],
        session_id=data["session_id"],
        authenticate_time=_time(data, "authenticate_time"),
        authentication_methods=tuple(data["authentication_methods"]),
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Event]] = {
    "session-established": lambda head, data: _read_sign_in(SessionEstablished, head, data),
    "new-device": lambda head, data: _read_sign_in(NewDevice, head, data),
    "session-ended": _read_session_ended,
    "sessions-swept": _read_sessions_swept,
    "reauthenticated": _read_reauthenticated,
    "superseded-token-used": lambda head, data: SupersededTokenUsed(
        **head, user_id=data["user_id"], session_id=data["session_id"]
    ),
    "user-erased": lambda head, data: UserErased(**head, user_id=data["user_id"]),
    "test": lambda head, data: TestEvent(**head, receiver=data["receiver"]),
}


def _known(kind: type[_Enum], value: str) -> _Enum:
    """Return a member of an enum; its UNKNOWN for a value that this version does not know."""
    try:
        return kind(value)
    except ValueError:
        return kind("unknown")


def _time(data: Mapping[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(data[name])
