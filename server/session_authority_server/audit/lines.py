"""Write events as JSON lines, with the names of OpenID CAEP where they exist (docs/operate/audit.md)."""

import json
from datetime import datetime
from functools import singledispatch
from typing import Any

from session_authority_server.domain.event import (
    CredentialRejected,
    Event,
    FenceResolved,
    KeyCreated,
    KeyExpirySet,
    KeyRevoked,
    ReceiverChanged,
    SessionEnded,
    SessionEstablished,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.session import EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import mask_tokens

# The reason in a summary line for events that were dropped from a full queue.
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

Fields = dict[str, Any]


def as_line(event: Event, *, addresses: bool) -> bytes:
    """Return the line of an event.

    Args:
        event: The event.
        addresses: Whether to include the IP address and user agent of a sign-in.
    """
    fields = _fields_of(event)
    if addresses and isinstance(event, SessionEstablished):
        fields |= _sign_in_origin(event.session)
    return _line(event.time, fields)


def summary_line(why: str, count: int, since: datetime, until: datetime) -> bytes:
    """Return one line that reports the number of events without lines of their own.

    Args:
        why: DROPPED, or the value of a CredentialFault.
        count: The number of events.
        since: The time of the first event.
        until: A time at or after the last event.
    """
    fields: Fields = {"event": "events-dropped"}
    if why != DROPPED:
        fields = {
            "event": "credentials-rejected",
            "credential_type": _SESSION_TOKEN,
            "reason": why,
        }
    return _line(until, fields | {"since": _numeric(since), "count": count})


@singledispatch
def _fields_of(event: Event) -> Fields:
    raise TypeError(f"{type(event).__name__} is not an event")


@_fields_of.register
def _established(event: SessionEstablished) -> Fields:
    session = event.session
    fields: Fields = {
        "event": "session-established",
        "event_type": _ESTABLISHED,
        **_of_session(session),
        "initiating_entity": InitiatingEntity.USER.value,
    }
    if session.actor_id:
        fields["actor_id"] = session.actor_id
    if session.created_by:
        fields["key_id"] = session.created_by
    return fields


@_fields_of.register
def _reauthenticated(event: SessionReauthenticated) -> Fields:
    return {
        "event": "session-reauthenticated",
        "event_type": _CREDENTIAL,
        **_of_session(event.session),
        "initiating_entity": InitiatingEntity.USER.value,
        "credential_type": _SESSION_TOKEN,
        "change_type": "update",
    }


@_fields_of.register
def _ended(event: SessionEnded) -> Fields:
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


@_fields_of.register
def _swept(event: SessionsSwept) -> Fields:
    fields: Fields = {"event": "sessions-swept", "event_type": _REVOKED}
    fields |= {"user_id": event.user_id} if event.user_id else {"everybody": True}
    if event.kept is not None:
        fields["kept_session_id"] = str(event.kept)
    fields["initiating_entity"] = event.sweep.initiated_by.value
    return fields | {"reason_admin": {"en": event.why}} if event.why else fields


@_fields_of.register
def _rejected(event: CredentialRejected) -> Fields:
    return {
        "event": "credential-rejected",
        "session_id": str(event.session_id),
        "user_id": event.user_id,
        "credential_type": _SESSION_TOKEN,
        "reason": event.fault.value,
    }


@_fields_of.register
def _key_created(event: KeyCreated) -> Fields:
    return _of_key("api-key-created", event.key_id, "create")


@_fields_of.register
def _key_expiry_set(event: KeyExpirySet) -> Fields:
    fields = _of_key("api-key-expiry-set", event.key_id, "update")
    return fields | {"expire_timestamp": _numeric(event.expire_time)}


@_fields_of.register
def _key_revoked(event: KeyRevoked) -> Fields:
    return _of_key("api-key-revoked", event.key_id, "revoke")


@_fields_of.register
def _fence_resolved(event: FenceResolved) -> Fields:
    return {
        "event": "fence-resolved",
        "initiating_entity": InitiatingEntity.ADMIN.value,
        "choice": event.choice.value,
        "lost_endings": event.lost,
    }


@_fields_of.register
def _receiver_changed(event: ReceiverChanged) -> Fields:
    return {
        "event": "receiver-changed",
        "initiating_entity": _by(event).value,
        "receiver": event.name,
        "change": event.change.value,
    }


def _by(event: ReceiverChanged) -> InitiatingEntity:
    return InitiatingEntity.SYSTEM if event.by_itself else InitiatingEntity.ADMIN


def _of_key(name: str, key_id: str, change_type: str) -> Fields:
    return {
        "event": name,
        "event_type": _CREDENTIAL,
        "key_id": key_id,
        "initiating_entity": InitiatingEntity.ADMIN.value,
        "credential_type": _API_KEY,
        "change_type": change_type,
    }


def _of_session(session: Session) -> Fields:
    return {
        "session_id": str(session.session_id),
        "user_id": session.user_id,
        "amr": list(session.authentication_methods),
    }


def _sign_in_origin(session: Session) -> Fields:
    fields: Fields = {}
    if session.ip_address:
        fields["ips"] = [session.ip_address]
    if session.user_agent:
        fields["user_agent"] = session.user_agent
    return fields


def _line(moment: datetime, fields: Fields) -> bytes:
    text = json.dumps({"event_timestamp": _numeric(moment), **fields}, separators=(",", ":"))
    # No field holds a token, but an app's user id or a user agent might contain one.
    return (mask_tokens(text) + "\n").encode()


def _numeric(moment: datetime) -> float:
    """Return a moment as a NumericDate (RFC 7519): seconds since 1970, rounded to the microsecond."""
    return round(moment.timestamp(), 6)
