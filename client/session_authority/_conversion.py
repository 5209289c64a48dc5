"""Conversion between the messages of the API and the values of the library."""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from session_authority import session as values
from session_authority.errors import FieldViolation, InternalError, InvalidArgument
from session_authority.v1 import session_pb2, session_service_pb2

EPOCH = datetime.fromtimestamp(0, UTC)

USER_AGENT_LIMIT_BYTES = 4096
"""The client cuts a longer User-Agent, so that the request is not too large. The authority cuts it at 1,024 bytes."""

DEVICES_LIMIT = 2048
"""The number of different devices that are cached for sharing between sessions."""

_NO_ATTRIBUTES = values.Attributes()

_Enum = TypeVar("_Enum", bound=StrEnum)


class _Wrapper(Protocol):
    def items(self) -> Iterable[tuple[str, int]]: ...


def _by_number(wrapper: _Wrapper, kind: type[_Enum], prefix: str) -> Mapping[int, _Enum]:
    return {number: kind[name.removeprefix(prefix)] for name, number in wrapper.items() if number}


_STATES = _by_number(session_pb2.SessionState, values.SessionState, "SESSION_STATE_")
_DEVICE_TYPES = _by_number(session_pb2.DeviceType, values.DeviceType, "DEVICE_TYPE_")
_END_REASONS = _by_number(session_pb2.EndReason, values.EndReason, "END_REASON_")
_ENTITIES = _by_number(session_pb2.InitiatingEntity, values.InitiatingEntity, "INITIATING_ENTITY_")
_REJECTION_REASONS = _by_number(
    session_service_pb2.RejectionReason, values.RejectionReason, "REJECTION_REASON_"
)


def invalid(field: str, description: str) -> InvalidArgument:
    """Return the error for an invalid argument that the client finds before the call."""
    return InvalidArgument(violations=[FieldViolation(field, description)])


def timestamp(field: str, time: datetime | None) -> Timestamp | None:
    """Convert an aware datetime.

    Raises:
        InvalidArgument: The datetime has no time zone.
    """
    if time is None:
        return None
    if time.utcoffset() is None:
        raise invalid(field, "the datetime must have a time zone, for example datetime.UTC")
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration(field: str, span: timedelta | None) -> Duration | None:
    """Convert a timedelta."""
    if span is None:
        return None
    if not isinstance(span, timedelta):
        raise invalid(field, f"must be a timedelta, not {type(span).__name__}")
    message = Duration()
    message.FromTimedelta(span)
    return message


def text(field: str, value: str) -> str:
    """Return a text that can be encoded as UTF-8.

    Raises:
        InvalidArgument: The text has lone surrogates. Python decodes a header's invalid UTF-8 to them.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, "the text is not valid Unicode") from None
    return value


def user_agent(value: str | bytes | None) -> str:
    """Return a User-Agent header as text of bounded length. Any content is accepted."""
    encoded = value if isinstance(value, bytes) else (value or "").encode("utf-8", "replace")
    if len(encoded) <= USER_AGENT_LIMIT_BYTES:
        return encoded.decode("utf-8", "replace")
    return encoded[:USER_AGENT_LIMIT_BYTES].decode("utf-8", "ignore")


def ip_address(value: values.IpAddress) -> str:
    """Return an IP address as text. The authority checks it."""
    return "" if value is None else text("ip_address", str(value))


def is_address(text: str) -> bool:
    """Say whether the authority accepts a text as an IP address. It rejects a zone (`%eth0`)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def time_of(message: Timestamp) -> datetime:
    """Convert a timestamp to a datetime, truncated to whole microseconds."""
    try:
        return EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        failure = InternalError("the answer contains a time that Python cannot represent")
    raise failure


def session_of(message: session_pb2.Session) -> values.Session:
    """Convert a session."""
    return values.Session(
        session_id=message.session_id,
        user_id=message.user_id,
        state=_STATES.get(message.state, values.SessionState.UNKNOWN),
        current=message.current,
        device=_device_of(message.device),
        ip_address=message.ip_address or None,
        last_ip_address=message.last_ip_address or None,
        create_time=time_of(message.create_time),
        authenticate_time=time_of(message.authenticate_time),
        authentication_methods=tuple(message.authentication_methods),
        last_active_time=time_of(message.last_active_time),
        expire_time=time_of(message.expire_time),
        idle_expire_time=(
            time_of(message.idle_expire_time) if message.HasField("idle_expire_time") else None
        ),
        end_time=time_of(message.end_time) if message.HasField("end_time") else None,
        end_reason=_unless_unset(message.end_reason, _END_REASONS, values.EndReason.UNKNOWN),
        initiating_entity=_unless_unset(
            message.initiating_entity, _ENTITIES, values.InitiatingEntity.UNKNOWN
        ),
        attributes=(
            values.Attributes(message.attributes) if message.attributes else _NO_ATTRIBUTES
        ),
        actor_id=message.actor_id or None,
        new_device=message.new_device,
        label=message.label or None,
        location=_location_of(message.location) if message.HasField("location") else None,
    )


def _location_of(message: session_pb2.Location) -> values.Location:
    return values.Location(
        city=message.city,
        region=message.region,
        country=message.country,
        country_code=message.country_code,
    )


def _device_of(message: session_pb2.Device) -> values.Device:
    return _device(
        message.browser,
        message.browser_version,
        message.os,
        message.os_version,
        message.type,
        message.display_name,
    )


@lru_cache(maxsize=DEVICES_LIMIT)
def _device(
    browser: str, browser_version: str, os: str, os_version: str, kind: int, display_name: str
) -> values.Device:
    # Many sessions have the same device, so they share one object.
    return values.Device(
        browser=browser,
        browser_version=browser_version,
        os=os,
        os_version=os_version,
        type=_DEVICE_TYPES.get(kind, values.DeviceType.UNKNOWN),
        display_name=display_name,
    )


def answer_of(
    message: session_service_pb2.ValidateSessionResponse,
) -> values.Session | values.Rejection:
    """Convert the answer to a validation."""
    match message.WhichOneof("outcome"):
        case "session":
            return session_of(message.session)
        case "rejection":
            reason = message.rejection.reason
            return values.Rejection(_REJECTION_REASONS.get(reason, values.RejectionReason.UNKNOWN))
        case _:
            # Raise an error: an answer that the client does not understand must not sign a user out.
            raise InternalError("the answer contains neither a session nor a rejection")


def _unless_unset(number: int, known: Mapping[int, _Enum], unknown: _Enum) -> _Enum | None:
    return known.get(number, unknown) if number else None
