"""Prepare the texts of one session for the template."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from session_authority.session import (
    Device,
    DeviceType,
    EndReason,
    InitiatingEntity,
    Location,
    Session,
)
from session_authority.web.sessions_page.language import Language

NEW_FOR = timedelta(days=7)
"""How long the page marks a session as one of a new device."""

_ICONS = {
    DeviceType.DESKTOP: "desktop",
    DeviceType.PHONE: "phone",
    DeviceType.TABLET: "tablet",
    DeviceType.APPLIANCE: "appliance",
    DeviceType.SCRIPT: "script",
    DeviceType.BOT: "script",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the page.

    Attributes:
        machine: The value for `<time datetime>`.
        text: The visible text, relative or as a date.
        exact: The time to the second, in UTC. The script converts it to the viewer's time zone.
        kind: The kind of `text`, "ago" or "date". The script needs it to update `text`.
    """

    machine: str
    text: str
    exact: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One session on the page.

    Attributes:
        session_id: The session's id, for forms only.
        current: Whether this is the viewer's own session.
        icon: The name of the device's icon.
        name: The user's own name of the session, or else the device's name.
        device: The device's name, such as "Chrome on Windows", if `name` is another.
        is_new: Whether the user signed in from a new device within NEW_FOR.
        place: The place of the address, such as "Hamburg, Germany"; empty if unknown.
        address: The latest IP address, if it is stored.
        first_address: The IP address at sign-in, if it differs from `address`.
        active: The time of the last activity.
        authenticated: The time when the user last confirmed their identity.
        signed_in: The time of the sign-in.
        methods: The authentication methods, such as "password and one-time code"; empty if unknown.
        actor: The person who signed in as the user, if any.
        ended: The time of the end, if the session has ended.
        why: The reason for the end; empty if unknown.
    """

    session_id: str
    current: bool
    icon: str
    name: str
    device: str
    is_new: bool
    place: str
    address: str | None
    first_address: str | None
    active: Moment
    authenticated: Moment
    signed_in: Moment
    methods: str
    actor: str | None
    ended: Moment | None
    why: str


def row_of(session: Session, language: Language, now: datetime) -> Row:
    """Return the row of a session in a language."""
    address = session.last_ip_address or session.ip_address
    device = device_name(session.device, language)
    return Row(
        session_id=session.session_id,
        current=session.current,
        icon=_ICONS.get(session.device.type, "unknown"),
        name=session.label or device,
        device=device if session.label else "",
        is_new=session.new_device and not session.current and now - session.create_time < NEW_FOR,
        place=_place(session.location, language),
        address=address,
        first_address=session.ip_address if session.ip_address != address else None,
        active=_ago(session.last_active_time, language, now),
        authenticated=_ago(session.authenticate_time, language, now),
        signed_in=_date(session.create_time, language),
        methods=_methods(session.authentication_methods, language),
        actor=session.actor_id,
        ended=_ago(session.end_time, language, now) if session.end_time else None,
        why=_why(session.end_reason, session.initiating_entity, language),
    )


def device_name(device: Device, language: Language) -> str:
    """Return a device's name in a language."""
    _ = language.gettext
    browser, os = device.browser.strip(), device.os.strip()
    if device.type is DeviceType.BOT and browser:
        return _("%(browser)s (bot)", browser=browser)
    if os and os != browser:
        return _("%(browser)s on %(os)s", browser=browser or _("Unknown app"), os=os)
    if browser:
        return browser
    return {
        DeviceType.DESKTOP: _("Unknown computer"),
        DeviceType.PHONE: _("Unknown phone"),
        DeviceType.TABLET: _("Unknown tablet"),
        DeviceType.APPLIANCE: _("Unknown smart device"),
        DeviceType.SCRIPT: _("Unknown program"),
        DeviceType.BOT: _("Unknown bot"),
    }.get(device.type, _("Unknown device"))


def _place(location: Location | None, language: Language) -> str:
    """Return a place, with the name of the country in the language."""
    if location is None:
        return ""
    country = language.country(location.country_code) or location.country
    place = location.city or location.region
    if not place or not country or place == location.country:
        return country or place
    return language.gettext("%(place)s, %(country)s", place=place, country=country)


def _methods(names: tuple[str, ...], language: Language) -> str:
    """Return the methods of RFC 8176 in plain words, and other methods by their names."""
    _ = language.gettext
    words = {
        "face": _("face recognition"),
        "fpt": _("fingerprint"),
        "hwk": _("security key"),
        "iris": _("iris scan"),
        "kba": _("security question"),
        "otp": _("one-time code"),
        "passkey": _("passkey"),
        "pin": _("PIN"),
        "pop": _("passkey"),
        "pwd": _("password"),
        "retina": _("retina scan"),
        "sc": _("smart card"),
        "sms": _("text message"),
        "swk": _("passkey"),
        "tel": _("phone call"),
        "vbm": _("voice recognition"),
        "webauthn": _("passkey"),
        "wia": _("Windows login"),
        # These add nothing for a person if other methods are listed.
        "geo": "",
        "mca": "",
        "mfa": "",
        "rba": "",
        "user": "",
    }
    described = dict.fromkeys(filter(None, (words.get(name, name) for name in names)))
    if not described and "mfa" in names:
        return _("two-step verification")
    return language.together(list(described)) if described else ""


def _why(reason: EndReason | None, by: InitiatingEntity | None, language: Language) -> str:
    _ = language.gettext
    match reason:
        case EndReason.SIGNED_OUT:
            return _("By you, on the device itself")
        case EndReason.REVOKED if by is InitiatingEntity.USER:
            return _("By you, from another device")
        case EndReason.REVOKED if by is InitiatingEntity.ADMIN:
            return _("By an administrator")
        case EndReason.REVOKED:
            return _("For your security")
        case EndReason.EXPIRED:
            return _("Session expired")
        case EndReason.IDLE_TIMEOUT:
            return _("Inactive for too long")
        case EndReason.LIMIT:
            return _("Replaced by a newer login")
        case _:
            return ""


def _ago(time: datetime, language: Language, now: datetime) -> Moment:
    return Moment(_machine(time), language.ago(time, now), language.exact(time), "ago")


def _date(time: datetime, language: Language) -> Moment:
    return Moment(_machine(time), language.moment(time), language.exact(time), "date")


def _machine(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
