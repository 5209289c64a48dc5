from datetime import UTC, datetime
from typing import Any

import pytest

from session_authority import (
    Device,
    DeviceType,
    EndReason,
    InitiatingEntity,
    Location,
    Session,
    SessionState,
)
from session_authority.web.sessions_page.language import Languages
from session_authority.web.sessions_page.row import Row, device_name, row_of

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
ENGLISH = Languages().choose("en-GB")


def row(**details: Any) -> Row:
    session = Session(
        **{
            "session_id": "1",
            "user_id": "ada",
            "state": SessionState.ACTIVE,
            "current": False,
            "device": Device(),
            "create_time": NOON,
            "authenticate_time": NOON,
            "last_active_time": NOON,
            "expire_time": NOON,
            **details,
        }
    )
    return row_of(session, ENGLISH, NOON)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (Device(browser="Chrome", os="Windows"), "Chrome on Windows"),
        (Device(browser="curl"), "curl"),
        (Device(browser="PlayStation", os="PlayStation"), "PlayStation"),
        (Device(os="iOS"), "Unknown app on iOS"),
        (Device(browser="Googlebot", os="Android", type=DeviceType.BOT), "Googlebot (bot)"),
        (Device(), "Unknown device"),
        (Device(browser="  "), "Unknown device"),
        (Device(type=DeviceType.DESKTOP), "Unknown computer"),
        (Device(type=DeviceType.PHONE), "Unknown phone"),
        (Device(type=DeviceType.TABLET), "Unknown tablet"),
        (Device(type=DeviceType.APPLIANCE), "Unknown smart device"),
        (Device(type=DeviceType.SCRIPT), "Unknown program"),
        (Device(type=DeviceType.BOT), "Unknown bot"),
    ],
)
def test_15_every_device_has_a_sensible_name(device: Device, name: str) -> None:
    assert device_name(device, ENGLISH) == name


@pytest.mark.parametrize("kind", DeviceType)
def test_every_kind_of_device_has_an_icon(kind: DeviceType) -> None:
    known = {"desktop", "phone", "tablet", "appliance", "script", "unknown"}
    assert row(device=Device(type=kind)).icon in known


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), ""),
        (("pwd",), "password"),
        (("pwd", "otp"), "password and one-time code"),
        (("swk", "user"), "passkey"),
        (("passkey", "pop"), "passkey"),
        (("pwd", "sms", "mfa"), "password and text message"),
        (("mfa",), "two-step verification"),
        (("geo", "rba"), ""),
        (("company-badge",), "company-badge"),
    ],
)
def test_authentication_methods_have_plain_names(names: tuple[str, ...], said: str) -> None:
    assert row(authentication_methods=names).methods == said


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize("entity", [*InitiatingEntity, None])
def test_every_known_end_reason_has_a_sentence(
    reason: EndReason, entity: InitiatingEntity | None
) -> None:
    why = row(end_time=NOON, end_reason=reason, initiating_entity=entity).why
    assert bool(why) is (reason is not EndReason.UNKNOWN)


def test_the_reason_depends_on_the_initiator() -> None:
    said = {
        row(end_time=NOON, end_reason=EndReason.REVOKED, initiating_entity=entity).why
        for entity in InitiatingEntity
    }
    assert said == {
        "By you, from another device",
        "By an administrator",
        "For your security",
    }


@pytest.mark.parametrize(
    ("location", "place"),
    [
        (None, ""),
        (Location("Hamburg", "Hamburg", "Germany", "DE"), "Hamburg, Germany"),
        (Location("", "Bavaria", "Germany", "DE"), "Bavaria, Germany"),
        (Location(country="Germany", country_code="DE"), "Germany"),
        (Location(country="Atlantis"), "Atlantis"),
        (Location(country="Atlantis", country_code="XQ"), "Atlantis"),
        (Location(city="Hamburg"), "Hamburg"),
        (Location(city="Singapore", country="Singapore", country_code="SG"), "Singapore"),
    ],
)
def test_a_place_is_the_city_or_region_and_the_country(
    location: Location | None, place: str
) -> None:
    assert row(location=location).place == place


def test_addresses_that_were_not_stored_are_left_out() -> None:
    assert (row().address, row().first_address) == (None, None)
    assert row(ip_address="192.0.2.1").address == "192.0.2.1"
    both = row(ip_address="192.0.2.1", last_ip_address="192.0.2.2")
    assert (both.address, both.first_address) == ("192.0.2.2", "192.0.2.1")
