from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from session_authority.v1 import session_pb2, session_service_pb2
from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.errors import InvalidRequest
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.verdict import Rejection, RejectionReason
from session_authority_server.rpc.conversion import (
    from_duration,
    from_timestamp,
    to_batch_answer,
    to_outcome,
    to_session,
    to_timestamp,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


def _session(**changes: Any) -> Session:
    fields: dict[str, Any] = {
        "session_id": uuid4(),
        "user_id": "ada",
        "secret_hash": b"h" * 32,
        "device": Device("Chrome", "141", "Windows", "", DeviceType.DESKTOP),
        "user_agent": "Mozilla/5.0",
        "ip_address": None,
        "last_ip_address": "203.0.113.8",
        "create_time": NOW - timedelta(hours=3),
        "authenticate_time": NOW - timedelta(hours=2),
        "authentication_methods": ("pwd", "otp"),
        "last_active_time": NOW - timedelta(minutes=1),
        "lifetime": timedelta(days=1),
        "expire_time": NOW + timedelta(hours=21),
        "idle_timeout": None,
        "attributes": {"k": "v"},
    }
    return Session(**fields | changes)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_survives_a_round_trip(moment: datetime) -> None:
    assert from_timestamp(to_timestamp(moment), "f") == moment
    assert to_timestamp(moment).ToDatetime(UTC) == moment


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
    ],
)
def test_the_earliest_and_the_latest_time_survive_a_round_trip(moment: datetime) -> None:
    assert from_timestamp(to_timestamp(moment), "f") == moment


@pytest.mark.parametrize(
    "garbage",
    [
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
    ],
)
def test_an_invalid_timestamp_is_refused_with_its_field(garbage: Timestamp) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_timestamp(garbage, "authenticate_time")
    assert [violation.field for violation in caught.value.violations] == ["authenticate_time"]


@given(INT64, INT32)
def test_any_timestamp_is_converted_or_refused(seconds: int, nanos: int) -> None:
    message = Timestamp(seconds=seconds, nanos=nanos)
    try:
        moment = from_timestamp(message, "f")
    except InvalidRequest as error:
        assert error.violations[0].field == "f"  # noqa: PT017 - either outcome is right
    else:
        assert to_timestamp(moment).seconds == seconds
        assert 0 <= nanos - to_timestamp(moment).nanos < 1_000


@given(st.timedeltas(timedelta(days=-3_000_000), timedelta(days=3_000_000)))
def test_every_duration_survives_a_round_trip(span: timedelta) -> None:
    message = Duration()
    message.FromTimedelta(span)
    assert from_duration(message, "f") == span


@pytest.mark.parametrize(
    "garbage",
    [
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
        Duration(nanos=1_000_000_000),
        Duration(nanos=-1_000_000_000),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=-1, nanos=1),
    ],
)
def test_an_invalid_duration_is_refused_with_its_field(garbage: Duration) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_duration(garbage, "lifetime")
    assert [violation.field for violation in caught.value.violations] == ["lifetime"]


@given(INT64, INT32)
def test_any_duration_is_converted_or_refused(seconds: int, nanos: int) -> None:
    try:
        span = from_duration(Duration(seconds=seconds, nanos=nanos), "f")
    except InvalidRequest as error:
        assert error.violations[0].field == "f"  # noqa: PT017 - either outcome is right
    else:
        exact = seconds * 10**9 + nanos
        assert abs(exact - span // timedelta(microseconds=1) * 1_000) <= 1_000


def test_a_live_session_is_sent_without_an_ending() -> None:
    session = _session()
    message = to_session(session, NOW)

    assert message.state == session_pb2.SESSION_STATE_ACTIVE
    assert not message.current
    assert message.session_id == str(session.session_id)
    assert (message.ip_address, message.last_ip_address) == ("", "203.0.113.8")
    assert list(message.authentication_methods) == ["pwd", "otp"]
    assert dict(message.attributes) == {"k": "v"}
    assert message.device.display_name == "Chrome on Windows"
    for unset in ("end_time", "idle_expire_time"):
        assert not message.HasField(unset)
    assert message.end_reason == session_pb2.END_REASON_UNSPECIFIED
    assert message.initiating_entity == session_pb2.INITIATING_ENTITY_UNSPECIFIED


def test_only_the_session_of_the_callers_token_is_current() -> None:
    session = _session()
    assert to_session(session, NOW, session.session_id).current
    assert not to_session(session, NOW, uuid4()).current


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize("entity", InitiatingEntity)
def test_every_recorded_ending_is_sent(reason: EndReason, entity: InitiatingEntity) -> None:
    ended = _session(ending=Ending(NOW - timedelta(minutes=1), reason, entity))
    message = to_session(ended, NOW)

    assert message.state == session_pb2.SESSION_STATE_ENDED
    assert message.end_time.ToDatetime(UTC) == NOW - timedelta(minutes=1)
    assert session_pb2.EndReason.Name(message.end_reason) == f"END_REASON_{reason.name}"
    assert (
        session_pb2.InitiatingEntity.Name(message.initiating_entity)
        == f"INITIATING_ENTITY_{entity.name}"
    )


def test_an_implied_ending_is_sent() -> None:
    idle = _session(idle_timeout=timedelta(minutes=1))
    message = to_session(idle, NOW)

    assert message.state == session_pb2.SESSION_STATE_ENDED
    assert message.end_reason == session_pb2.END_REASON_IDLE_TIMEOUT
    assert message.idle_expire_time == message.end_time == to_timestamp(NOW)


@pytest.mark.parametrize("kind", DeviceType)
def test_every_type_of_device_has_an_enum_value(kind: DeviceType) -> None:
    message = to_session(_session(device=Device(type=kind)), NOW)
    name = session_pb2.DeviceType.Name(message.device.type)
    assert name == f"DEVICE_TYPE_{'UNSPECIFIED' if kind is DeviceType.UNKNOWN else kind.name}"


@pytest.mark.parametrize("reason", RejectionReason)
def test_every_rejection_has_an_enum_value(reason: RejectionReason) -> None:
    answer = to_outcome(Rejection(reason))
    assert answer.WhichOneof("outcome") == "rejection"
    name = session_service_pb2.RejectionReason.Name(answer.rejection.reason)
    assert name == f"REJECTION_REASON_{reason.name}"


def test_a_validated_session_is_current() -> None:
    answer = to_outcome(_session())
    assert answer.WhichOneof("outcome") == "session"
    assert answer.session.current


@pytest.mark.parametrize("value_bytes", [0, 1, 60, 100, 3_000, 20_000])
def test_the_handwritten_encoding_of_a_batch_equals_that_of_protobuf(value_bytes: int) -> None:
    verdicts: list[Session | Rejection] = [
        replace(_session(), attributes={"key": "v" * value_bytes}),
        *map(Rejection, RejectionReason),
        _session(),
    ]
    response = session_service_pb2.BatchValidateSessionsResponse(
        responses=[to_outcome(verdict) for verdict in verdicts]
    )
    assert (
        session_service_pb2.BatchValidateSessionsResponse.FromString(to_batch_answer(verdicts))
        == response
    )
