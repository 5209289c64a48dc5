"""The rules of security event tokens: OpenID Shared Signals 1.0 and CAEP 1.0, delivered by push (RFC 8935).

https://openid.net/specs/openid-sharedsignals-framework-1_0.html
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from session_authority.backchannel.provider import Provider
from session_authority.backchannel.signal import EndedIdentity, Signal
from session_authority.backchannel.signed_token import (
    Fault,
    Refused,
    SignedToken,
    addressed,
    check_age,
    check_expiry,
)

EVENT_AGE_SECONDS = 86_400
"""How old a security event may be. A transmitter repeats an event that it could not deliver."""
SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
_TYPE = "secevent+jwt"
# The user and the session say which sessions end. The tenant only says where the user belongs.
_PARTS = frozenset(("format", "user", "session", "tenant"))


def read_event(token: SignedToken, providers: Sequence[Provider], now: datetime) -> Signal:
    """Check all rules of a security event except its signature. Events of other types ask for nothing.

    Raises:
        Refused: The token breaks a rule, or its subject names no sign-in at the provider.
    """
    if token.token_type != _TYPE:
        raise Refused(f"typ must be {_TYPE}")
    provider, _, _ = addressed(token, providers)
    accepted_until = check_age(token, now, EVENT_AGE_SECONDS)
    if "exp" in token.claims:
        check_expiry(token, now)
    token_id = token.text_claim("jti")
    ended = None
    if token.event(SESSION_REVOKED) is not None:
        ended = _subject(token.claims.get("sub_id"), provider.issuer)
    return Signal(provider, token_id, accepted_until, ended)


def _subject(given: object, issuer: str) -> EndedIdentity:
    """Return whose sessions end.

    Raises:
        Refused: The subject has another format, or belongs to another issuer.
    """
    subject = _object(given, "sub_id")
    match subject.get("format"):
        case "iss_sub":
            return EndedIdentity(issuer, _user(subject, "sub_id", issuer), None)
        case "complex":
            return _complex(subject, issuer)
    raise Refused("sub_id must have the format iss_sub, or complex with user or session")


def _complex(subject: Mapping[str, Any], issuer: str) -> EndedIdentity:
    # Any other part, such as a device, would narrow the subject down further than we can follow.
    if not subject.keys() <= _PARTS:
        raise Refused("sub_id may only have the parts user, session and tenant")
    user = sid = None
    if "user" in subject:
        user = _user(_object(subject["user"], "sub_id.user"), "sub_id.user", issuer)
    if "session" in subject:
        session = _object(subject["session"], "sub_id.session")
        if session.get("format") != "opaque":
            raise Refused("sub_id.session must have the format opaque")
        sid = _text(session, "id", "sub_id.session")
    if user is None and sid is None:
        raise Refused("sub_id needs user or session")
    return EndedIdentity(issuer, user, sid)


def _user(given: Mapping[str, Any], place: str, issuer: str) -> str:
    if given.get("format") != "iss_sub":
        raise Refused(f"{place} must have the format iss_sub")
    if _text(given, "iss", place) != issuer:
        raise Refused(f"{place}.iss must be the issuer of the token", Fault.INVALID_ISSUER)
    return _text(given, "sub", place)


def _object(given: object, place: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise Refused(f"{place} must be an object")
    return given


def _text(given: Mapping[str, Any], name: str, place: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(f"{place}.{name} must be a text")
    return value
