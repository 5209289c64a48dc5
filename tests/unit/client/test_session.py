import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from session_authority import (
    Device,
    DeviceType,
    EndReason,
    InitiatingEntity,
    NewSession,
    Rejection,
    RejectionReason,
    Session,
    SessionState,
    ValidationRequest,
)
from session_authority import (
    _conversion as convert,
)
from session_authority.session_token import SessionToken
from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import NOON, TOKEN, session_message


def test_a_session_has_aware_times_and_none_for_unset_fields() -> None:
    assert convert.session_of(session_message()) == Session(
        session_id="s-1",
        user_id="ana",
        state=SessionState.ACTIVE,
        current=False,
        device=Device(
            browser="Chrome",
            browser_version="140.0",
            os="Windows",
            type=DeviceType.DESKTOP,
            display_name="Chrome on Windows",
        ),
        create_time=NOON,
        authenticate_time=NOON,
        last_active_time=NOON,
        expire_time=NOON + timedelta(days=90),
    )


def test_an_ended_session_has_its_time_reason_and_initiator() -> None:
    session = convert.session_of(
        session_message(
            state=session_pb2.SESSION_STATE_ENDED,
            current=True,
            ip_address="192.0.2.1",
            last_ip_address="2001:db8::1",
            authentication_methods=["pwd"],
            idle_expire_time=NOON,
            end_time=NOON + timedelta(microseconds=1),
            end_reason=session_pb2.END_REASON_IDLE_TIMEOUT,
            initiating_entity=session_pb2.INITIATING_ENTITY_POLICY,
            attributes={"tenant": "t-1"},
        )
    )
    assert session.state is SessionState.ENDED
    assert session.current
    assert (session.ip_address, session.last_ip_address) == ("192.0.2.1", "2001:db8::1")
    assert session.authentication_methods == ("pwd",)
    assert session.idle_expire_time == NOON
    assert session.end_time == datetime(2030, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert session.end_reason is EndReason.IDLE_TIMEOUT
    assert session.initiating_entity is InitiatingEntity.POLICY
    assert session.attributes == {"tenant": "t-1"}


def test_values_of_a_later_version_are_unknown() -> None:
    later = cast("Any", 99)
    session = convert.session_of(
        session_message(
            state=later,
            end_reason=later,
            initiating_entity=later,
            device=session_pb2.Device(type=later),
        )
    )
    assert session.state is SessionState.UNKNOWN
    assert session.end_reason is EndReason.UNKNOWN
    assert session.initiating_entity is InitiatingEntity.UNKNOWN
    assert session.device.type is DeviceType.UNKNOWN
    answer = v1.ValidateSessionResponse(rejection=v1.Rejection(reason=later))
    assert convert.answer_of(answer) == Rejection(RejectionReason.UNKNOWN)


def test_a_session_is_truthy_and_a_rejection_is_falsy() -> None:
    assert convert.session_of(session_message())
    assert not Rejection(RejectionReason.REVOKED)


def test_sessions_are_immutable() -> None:
    given = {"tenant": "t-1"}
    session = dataclasses.replace(convert.session_of(session_message()), attributes=given)
    given["tenant"] = "t-2"
    assert session.attributes == {"tenant": "t-1"}
    assert repr(session.attributes) == "{'tenant': 't-1'}"
    assert list(session.attributes) == ["tenant"]
    assert len(session.attributes) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.user_id = "eve"  # type: ignore[misc]
    with pytest.raises(TypeError):
        session.attributes["tenant"] = "t-3"  # type: ignore[index]


def test_sessions_hash_copy_and_pickle() -> None:
    session = convert.session_of(session_message(attributes={"tenant": "t-1"}))
    assert {session: 1}[copy.deepcopy(session)] == 1
    assert pickle.loads(pickle.dumps(session)) == session
    assert dataclasses.asdict(session)["attributes"] == {"tenant": "t-1"}


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda token: f"{token!s:>30}".strip()])
def test_a_token_is_masked_until_it_is_revealed(show: object) -> None:
    assert callable(show)
    assert show(SessionToken(TOKEN)) == "SessionToken('ses_…')"
    assert SessionToken(TOKEN).reveal() == TOKEN


def test_no_repr_of_an_object_with_a_token_shows_the_token() -> None:
    session = convert.session_of(session_message())
    assert TOKEN not in repr(NewSession(session, SessionToken(TOKEN)))
    assert TOKEN not in repr(ValidationRequest(TOKEN))


def test_tokens_are_equal_by_value_and_never_equal_a_plain_string() -> None:
    assert SessionToken(TOKEN) == SessionToken(TOKEN)
    assert SessionToken(TOKEN) != SessionToken(TOKEN[:-1])
    assert SessionToken("ses_\udcff") != SessionToken(TOKEN)
    assert SessionToken(TOKEN) != TOKEN
    assert len({SessionToken(TOKEN), SessionToken(TOKEN), SessionToken("ses_2")}) == 2


def test_a_token_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(SessionToken(TOKEN))


def test_a_token_is_immutable_and_its_copy_is_itself() -> None:
    token = SessionToken(TOKEN)
    assert copy.copy(token) is token
    assert copy.deepcopy(token) is token
    with pytest.raises(AttributeError):
        token._value = "ses_2"
    with pytest.raises(AttributeError):
        del token._value


def test_a_token_must_be_a_string() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        SessionToken("")
    with pytest.raises(TypeError, match="not bytes") as caught:
        SessionToken(TOKEN.encode())  # type: ignore[arg-type]
    assert TOKEN not in str(caught.value)
