import hmac
import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from session_authority import (
    ConfigurationError,
    Device,
    DeviceType,
    EndReason,
    EventRejected,
    InitiatingEntity,
    InternalError,
    Location,
    events,
)
from session_authority_server.domain.webhook import shown_key, signed_headers

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SECRET, OTHER_SECRET = shown_key(KEY), shown_key(OTHER_KEY)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
ID = "01890000-0000-7000-8000-000000000001"
SECOND = timedelta(seconds=1)
HEAD = {"event_id": ID, "time": NOON}


def message(kind: str, **data: object) -> bytes:
    return json.dumps(
        {"type": kind, "timestamp": "2026-01-15T12:00:00.000000Z", "data": data}
    ).encode()


BODY = message("user-erased", user_id="zoë")


def headers(
    body: bytes = BODY, *keys: bytes, at: datetime = NOON, event_id: str = ID
) -> Mapping[str, str]:
    return signed_headers(keys or [KEY], event_id, at, body)


def read(kind: str, **data: object) -> events.Event:
    body = message(kind, **data)
    return events.verify(headers(body), body, SECRET, now=NOON)


def test_an_event_of_the_authority_is_a_value() -> None:
    event = events.verify(headers(), BODY, SECRET, now=NOON)
    assert event == events.UserErased(**HEAD, user_id="zoë")  # type: ignore[arg-type]


def test_the_case_of_the_header_names_and_the_type_of_the_body_do_not_matter() -> None:
    upper = {name.title(): value for name, value in headers().items()}
    assert events.verify(upper, BODY.decode(), [SECRET], now=NOON).event_id == ID


def test_what_the_official_library_signs_is_accepted_at_this_machines_time() -> None:
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("msg_1", now, BODY.decode())
    given = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1a,other {signature}",
    }
    assert events.verify(given, BODY, SECRET).event_id == "msg_1"


def test_a_rotation_can_begin_at_the_authority_or_at_the_receiver() -> None:
    both_sign = headers(BODY, OTHER_KEY, KEY)
    events.verify(both_sign, BODY, SECRET, now=NOON)
    events.verify(both_sign, BODY, OTHER_SECRET, now=NOON)
    events.verify(headers(), BODY, [OTHER_SECRET, SECRET], now=NOON)


def test_a_change_of_any_part_is_refused() -> None:
    good = dict(headers())
    changes: list[tuple[Mapping[str, str], bytes]] = [
        (good, BODY + b" "),
        (good | {"webhook-id": "other"}, BODY),
        (good | {"webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)}, BODY),
        (good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}, BODY),
        (good | {"webhook-signature": "v1,é \udcff"}, BODY),
        (good | {"webhook-signature": ""}, BODY),
        ({}, BODY),
        ({}, b""),
    ]
    for given, body in changes:
        with pytest.raises(EventRejected, match="no signature matches"):
            events.verify(given, body, SECRET, now=NOON)
    with pytest.raises(EventRejected):
        events.verify(good, BODY, OTHER_SECRET, now=NOON)


def test_a_replay_is_refused_after_five_minutes() -> None:
    for accepted in (NOON - events.TOLERANCE, NOON + events.TOLERANCE):
        events.verify(headers(), BODY, SECRET, now=accepted)
    for refused in (NOON - events.TOLERANCE - SECOND, NOON + events.TOLERANCE + SECOND):
        with pytest.raises(EventRejected, match="over 5 minutes"):
            events.verify(headers(), BODY, SECRET, now=refused)


def test_a_signed_time_that_is_no_time_is_refused() -> None:
    for sent_at in ("", "now", "-1", "9" * 30):
        digest = hmac.digest(KEY, f"{ID}.{sent_at}.".encode() + BODY, "sha256")
        given = {
            "webhook-id": ID,
            "webhook-timestamp": sent_at,
            "webhook-signature": "v1," + b64encode(digest).decode(),
        }
        with pytest.raises(EventRejected):
            events.verify(given, BODY, SECRET, now=NOON)


def test_no_secret_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        events.verify({}, BODY, [], now=NOON)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_???", SECRET.removeprefix("whsec_")])
def test_a_malformed_secret_is_a_configuration_error_that_does_not_quote_it(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        events.verify(headers(), BODY, secret, now=NOON)
    assert not secret or secret not in str(caught.value).replace("begin with whsec_", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        message("user-erased"),
        message("session-ended", user_id="ann"),
        b'{"type":"user-erased","timestamp":"noon","data":{"user_id":"ann"}}',
        b'{"type":["x"],"timestamp":"2026-01-15T12:00:00Z","data":null}',
    ],
)
def test_a_signed_body_without_a_known_form_is_an_internal_error(body: bytes) -> None:
    with pytest.raises(InternalError):
        events.verify(headers(body), body, SECRET, now=NOON)


SIGN_IN: Mapping[str, Any] = {
    "user_id": "ann",
    "session_id": str(UUID(int=1)),
    "create_time": "2026-01-15T12:00:00.000000Z",
    "authenticate_time": "2026-01-15T11:59:58.500000Z",
    "expire_time": "2026-04-15T12:00:00.000000Z",
    "authentication_methods": ["pwd", "otp"],
    "device": {
        "display_name": "Chrome on Windows",
        "browser": "Chrome",
        "os": "Windows",
        "type": "desktop",
    },
    "new_device": True,
}


def test_a_sign_in_from_a_new_device_has_the_fields_of_its_session() -> None:
    place = {"city": "Hamburg", "region": "", "country": "Germany", "country_code": "DE"}
    event = read(
        "new-device", **SIGN_IN, actor_id="support", ip_address="192.0.2.1", location=place
    )
    assert event == events.NewDevice(
        event_id=ID,
        time=NOON,
        user_id="ann",
        session_id=str(UUID(int=1)),
        create_time=NOON,
        authenticate_time=NOON - 1.5 * SECOND,
        expire_time=NOON + timedelta(days=90),
        authentication_methods=("pwd", "otp"),
        device=Device("Chrome", "", "Windows", "", DeviceType.DESKTOP, "Chrome on Windows"),
        new_device=True,
        actor_id="support",
        ip_address="192.0.2.1",
        location=Location("Hamburg", "", "Germany", "DE"),
    )


def test_fields_that_are_absent_are_none_and_unknown_values_are_unknown() -> None:
    device = {"display_name": "", "browser": "", "os": "", "type": "hologram"}
    event = read("session-established", **{**SIGN_IN, "device": device}, added_later=1)
    assert isinstance(event, events.SessionEstablished)
    assert not isinstance(event, events.NewDevice)
    assert (event.actor_id, event.ip_address, event.location) == (None, None, None)
    assert event.device == Device()


def test_the_end_of_a_session_has_a_reason_an_initiator_and_an_effective_time() -> None:
    data = {
        "user_id": "ann",
        "session_id": "s-1",
        "end_time": "2026-01-15T12:00:00Z",
        "reason": "revoked",
        "initiating_entity": "admin",
        "effective_time": "2026-01-15T12:00:03Z",
    }
    event = read("session-ended", **data)
    assert event == events.SessionEnded(
        event_id=ID,
        time=NOON,
        user_id="ann",
        session_id="s-1",
        end_time=NOON,
        reason=EndReason.REVOKED,
        initiating_entity=InitiatingEntity.ADMIN,
        effective_time=NOON + 3 * SECOND,
    )
    later = read("session-ended", **{**data, "reason": "boredom"})
    assert isinstance(later, events.SessionEnded)
    assert later.reason is EndReason.UNKNOWN


def test_a_sweep_names_a_user_or_is_of_everybody() -> None:
    data = {
        "sweep_time": "2026-01-15T12:00:00Z",
        "initiating_entity": "user",
        "effective_time": "2026-01-15T12:00:03Z",
    }
    of_user = read("sessions-swept", **data, user_id="ann", kept_session_id="s-1")
    assert isinstance(of_user, events.SessionsSwept)
    assert (of_user.user_id, of_user.kept_session_id) == ("ann", "s-1")
    of_all = read("sessions-swept", **data, everybody=True)
    assert isinstance(of_all, events.SessionsSwept)
    assert (of_all.user_id, of_all.kept_session_id) == (None, None)


def test_the_other_types_and_types_of_the_future() -> None:
    head: dict[str, Any] = dict(HEAD)
    assert read("superseded-token-used", user_id="ann", session_id="s") == (
        events.SupersededTokenUsed(**head, user_id="ann", session_id="s")
    )
    assert read("test", receiver="mailer") == events.TestEvent(**head, receiver="mailer")
    assert read(
        "reauthenticated",
        user_id="ann",
        session_id="s",
        authenticate_time="2026-01-15T12:00:00Z",
        authentication_methods=[],
    ) == events.Reauthenticated(
        **head, user_id="ann", session_id="s", authenticate_time=NOON, authentication_methods=()
    )
    assert read("moon-landed", crew=3) == (
        events.UnknownEvent(**head, type="moon-landed", data={"crew": 3})
    )
