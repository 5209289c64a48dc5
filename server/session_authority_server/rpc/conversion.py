"""Conversion between domain values and messages."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from session_authority.v1 import session_pb2, session_service_pb2
from session_authority_server.domain.device import DeviceType
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.location import Location
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import Rejection, RejectionReason

# How many encoded answers to validations are cached. Each takes about 2 KiB.
ANSWERS_LIMIT = 20_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS_A_SECOND = 1_000_000_000
# The tag of the field `responses` of BatchValidateSessionsResponse: its number, and wire type 2 (length-delimited).
_RESPONSES_TAG = bytes(
    [session_service_pb2.BatchValidateSessionsResponse.RESPONSES_FIELD_NUMBER << 3 | 2]
)
_SMALL = [bytes([number]) for number in range(0x80)]
_DEVICE_TYPES = {
    DeviceType.UNKNOWN: session_pb2.DEVICE_TYPE_UNSPECIFIED,
    DeviceType.DESKTOP: session_pb2.DEVICE_TYPE_DESKTOP,
    DeviceType.PHONE: session_pb2.DEVICE_TYPE_PHONE,
    DeviceType.TABLET: session_pb2.DEVICE_TYPE_TABLET,
    DeviceType.APPLIANCE: session_pb2.DEVICE_TYPE_APPLIANCE,
    DeviceType.SCRIPT: session_pb2.DEVICE_TYPE_SCRIPT,
    DeviceType.BOT: session_pb2.DEVICE_TYPE_BOT,
}
_END_REASONS = {
    reason: session_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason
}
_INITIATING_ENTITIES = {
    entity: session_pb2.InitiatingEntity.Value(f"INITIATING_ENTITY_{entity.name}")
    for entity in InitiatingEntity
}
_REJECTIONS = {
    reason: session_service_pb2.ValidateSessionResponse(
        rejection=session_service_pb2.Rejection(
            reason=session_service_pb2.RejectionReason.Value(f"REJECTION_REASON_{reason.name}")
        )
    )
    for reason in RejectionReason
}


def to_timestamp(time: datetime) -> Timestamp:
    """Return a moment as a message."""
    message = Timestamp()
    _set(message, time)
    return message


def to_session(
    session: Session,
    now: datetime,
    current: UUID | None = None,
    location: Location | None = None,
) -> session_pb2.Session:
    """Return a session as a message, in its state at a moment.

    Args:
        session: The session.
        now: The moment.
        current: The id of the request's own session.
        location: The location of the session's latest IP address, if the answer shows it.
    """
    message = _session(session, ending_of(session, now), current)
    if location is not None:
        message.location.city = location.city
        message.location.region = location.region
        message.location.country = location.country
        message.location.country_code = location.country_code
    return message


def _session(session: Session, ending: Ending | None, current: UUID | None) -> session_pb2.Session:
    device = session.device
    message = session_pb2.Session(
        session_id=str(session.session_id),
        user_id=session.user_id,
        state=session_pb2.SESSION_STATE_ACTIVE,
        current=session.session_id == current,
        device=session_pb2.Device(
            browser=device.browser,
            browser_version=device.browser_version,
            os=device.os,
            os_version=device.os_version,
            type=_DEVICE_TYPES[device.type],
            display_name=device.display_name,
        ),
        ip_address=session.ip_address or "",
        last_ip_address=session.last_ip_address or "",
        authentication_methods=session.authentication_methods,
        attributes=session.attributes,
        actor_id=session.actor_id or "",
        new_device=session.new_device,
        label=session.label or "",
    )
    _set(message.create_time, session.create_time)
    _set(message.authenticate_time, session.authenticate_time)
    _set(message.last_active_time, session.last_active_time)
    _set(message.expire_time, session.expire_time)
    idle_expire_time = session.idle_expire_time
    if idle_expire_time is not None:
        _set(message.idle_expire_time, idle_expire_time)
    if ending is not None:
        message.state = session_pb2.SESSION_STATE_ENDED
        _set(message.end_time, ending.time)
        message.end_reason = _END_REASONS[ending.reason]
        message.initiating_entity = _INITIATING_ENTITIES[ending.initiated_by]
    return message


def to_outcome(verdict: Session | Rejection) -> session_service_pb2.ValidateSessionResponse:
    """Return the answer to a validation."""
    return _accepted(verdict) if isinstance(verdict, Session) else _REJECTIONS[verdict.reason]


@lru_cache(ANSWERS_LIMIT)
def to_answer(verdict: Session | Rejection) -> bytes:
    """Return the encoded answer to a validation. It depends only on the verdict."""
    return to_outcome(verdict).SerializeToString()


def to_batch_answer(verdicts: Sequence[Session | Rejection]) -> bytes:
    """Return the encoded answer to a batch.

    It is assembled from the encoded single answers. Protobuf would copy and serialise each message again, which takes a
    quarter of the time of the whole validation.
    """
    parts: list[bytes] = []
    for verdict in verdicts:
        answer = to_answer(verdict)
        parts += (_RESPONSES_TAG, _varint(len(answer)), answer)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Return a number as a protobuf varint."""
    if number < 0x80:
        return _SMALL[number]
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _accepted(session: Session) -> session_service_pb2.ValidateSessionResponse:
    """Return the answer that accepts a live session."""
    message = _session(session, None, session.session_id)
    return session_service_pb2.ValidateSessionResponse(session=message)


def given_timestamp(request: Message, field: str) -> datetime | None:
    """Return the moment in a field of a request; None if the field is not set.

    Raises:
        InvalidRequest: If the moment is not valid.
    """
    return from_timestamp(getattr(request, field), field) if request.HasField(field) else None


def given_duration(request: Message, field: str) -> timedelta | None:
    """Return the duration in a field of a request; None if the field is not set.

    Raises:
        InvalidRequest: If the duration is not valid.
    """
    return from_duration(getattr(request, field), field) if request.HasField(field) else None


def from_timestamp(message: Timestamp, field: str) -> datetime:
    """Return the moment of a message, rounded down to the microsecond.

    Raises:
        InvalidRequest: If it is not a valid moment between the years 1 and 9999.
    """
    if 0 <= message.nanos < _NANOS_A_SECOND:
        try:
            return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
        except OverflowError:
            pass
    raise InvalidRequest([Violation(field, "is not a moment between the years 1 and 9999")])


def from_duration(message: Duration, field: str) -> timedelta:
    """Return the duration of a message, cut to the microsecond.

    Raises:
        InvalidRequest: If the message is not a valid duration.
    """
    same_sign = message.seconds * message.nanos >= 0
    if abs(message.nanos) < _NANOS_A_SECOND and same_sign:
        try:
            return timedelta(seconds=message.seconds, microseconds=int(message.nanos / 1_000))
        except OverflowError:
            pass
    raise InvalidRequest([Violation(field, "is not a duration of at most 10,000 years")])


def _set(message: Timestamp, time: datetime) -> None:
    # Set in place, because creating and copying a message costs twice as much.
    since = time - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1_000
