"""Write events as JSON lines, with the names of OpenID CAEP where it has some (docs/operate/audit.md)."""

import json
from datetime import datetime
from functools import singledispatch
from typing import Any

from session_authority_server.domain.event import (
    CredentialRejected,
    Event,
    KeyCreated,
    KeyGivenEnd,
    KeyRevoked,
    SessionEnded,
    SessionEstablished,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.session import EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import mask_tokens

# Why events have no lines of their own: because the queue was full. Other reasons are faults of credentials.
DROPPED = "dropped"

_CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
_ESTABLISHED = _CAEP + "session-established"
_REVOKED = _CAEP + "session-revoked"
_CREDENTIAL = _CAEP + "credential-change"
_SESSION_TOKEN, _API_KEY = "session-token", "api-key"
_ENDED_BECAUSE = {
    EndReason.SIGNED_OUT: "The user signed out.",
    EndReason.REVOKED: "The session was revoked.",
    EndReason.EXPIRED: "The session reached the end of its lifetime.",
    EndReason.IDLE_TIMEOUT: "The session was not used for too long.",
    EndReason.LIMIT: "The user had as many sessions as the policy allows and signed in again.",
}

Said = dict[str, Any]


def as_line(event: Event, *, addresses: bool) -> bytes:
    """Return the line of an event.

    Args:
        event: What happened.
        addresses: Whether to include the IP address and user agent of a sign-in.
    """
    said = _say(event)
    if addresses and isinstance(event, SessionEstablished):
        said |= _whence(event.session)
    return _line(event.time, said)


def counted(why: str, count: int, since: datetime, until: datetime) -> bytes:
    """Return one line for events that have no lines of their own.

    Args:
        why: DROPPED, or the fault of rejected credentials.
        count: How many events there were.
        since: When the first of them happened.
        until: When the last of them happened, at the latest.
    """
    said: Said = {"event": "events-dropped"}
    if why != DROPPED:
        said = {
            "event": "credentials-rejected",
            "credential_type": _SESSION_TOKEN,
            "reason": why,
        }
    return _line(until, said | {"since": _numeric(since), "count": count})


@singledispatch
def _say(event: Event) -> Said:
    raise TypeError(f"{type(event).__name__} is no event")


@_say.register
def _established(event: SessionEstablished) -> Said:
    session = event.session
    said: Said = {
        "event": "session-established",
        "event_type": _ESTABLISHED,
        **_of_session(session),
        "initiating_entity": InitiatingEntity.USER.value,
    }
    if session.actor_id:
        said["actor_id"] = session.actor_id
    if session.created_by:
        said["key_id"] = session.created_by
    return said


@_say.register
def _reauthenticated(event: SessionReauthenticated) -> Said:
    return {
        "event": "session-reauthenticated",
        "event_type": _CREDENTIAL,
        **_of_session(event.session),
        "initiating_entity": InitiatingEntity.USER.value,
        "credential_type": _SESSION_TOKEN,
        "change_type": "update",
    }


@_say.register
def _ended(event: SessionEnded) -> Said:
    ending = event.ending
    return {
        "event": "session-ended",
        "event_type": _REVOKED,
        "session_id": str(event.session_id),
        "user_id": event.user_id,
        "initiating_entity": ending.initiated_by.value,
        "reason": ending.reason.value,
        "reason_admin": {"en": event.why or _ENDED_BECAUSE[ending.reason]},
    }


@_say.register
def _swept(event: SessionsSwept) -> Said:
    said: Said = {"event": "sessions-swept", "event_type": _REVOKED}
    said |= {"user_id": event.user_id} if event.user_id else {"everybody": True}
    if event.kept is not None:
        said["kept_session_id"] = str(event.kept)
    said["initiating_entity"] = event.sweep.initiated_by.value
    return said | {"reason_admin": {"en": event.why}} if event.why else said


@_say.register
def _rejected(event: CredentialRejected) -> Said:
    return {
        "event": "credential-rejected",
        "session_id": str(event.session_id),
        "user_id": event.user_id,
        "credential_type": _SESSION_TOKEN,
        "reason": event.fault.value,
    }


@_say.register
def _key_created(event: KeyCreated) -> Said:
    return _of_key("api-key-created", event.key_id, "create")


@_say.register
def _key_given_end(event: KeyGivenEnd) -> Said:
    said = _of_key("api-key-expiry-set", event.key_id, "update")
    return said | {"expire_timestamp": _numeric(event.expire_time)}


@_say.register
def _key_revoked(event: KeyRevoked) -> Said:
    return _of_key("api-key-revoked", event.key_id, "revoke")


def _of_key(name: str, key_id: str, change_type: str) -> Said:
    return {
        "event": name,
        "event_type": _CREDENTIAL,
        "key_id": key_id,
        "initiating_entity": InitiatingEntity.ADMIN.value,
        "credential_type": _API_KEY,
        "change_type": change_type,
    }


def _of_session(session: Session) -> Said:
    return {
        "session_id": str(session.session_id),
        "user_id": session.user_id,
        "amr": list(session.authentication_methods),
    }


def _whence(session: Session) -> Said:
    said: Said = {}
    if session.ip_address:
        said["ips"] = [session.ip_address]
    if session.user_agent:
        said["user_agent"] = session.user_agent
    return said


def _line(moment: datetime, said: Said) -> bytes:
    text = json.dumps({"event_timestamp": _numeric(moment), **said}, separators=(",", ":"))
    # No field here is a token. A caller's user id or a browser's name might contain one.
    return (mask_tokens(text) + "\n").encode()


def _numeric(moment: datetime) -> float:
    """Return a moment as a NumericDate (RFC 7519): seconds since 1970, rounded to the microsecond."""
    return round(moment.timestamp(), 6)
