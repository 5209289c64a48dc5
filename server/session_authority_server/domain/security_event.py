"""The claims of security event tokens (SETs): RFC 8417, as profiled by SSF 1.0, with the events of CAEP 1.0.

https://openid.net/specs/openid-caep-1_0-final.html
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from session_authority_server.domain.event_stream import (
    ASSURANCE_LEVEL_CHANGE,
    RISK_LEVEL_CHANGE,
    SESSION_ESTABLISHED,
    SESSION_REVOKED,
    audience,
)
from session_authority_server.domain.payload import as_payload
from session_authority_server.domain.receiver import Delivery, EventType

_SSF = "https://schemas.openid.net/secevent/ssf/event-type/"
VERIFICATION = _SSF + "verification"
STREAM_UPDATED = _SSF + "stream-updated"

# The types in the bodies of events about a stream. Both are kept as test events, because no other event delays them.
STREAM_UPDATED_BODY = "stream-updated"
VERIFICATION_BODY = "verification"

_ERROR_CODE = re.compile("[A-Za-z][A-Za-z0-9_-]{0,39}")

Claims = dict[str, Any]
Data = Mapping[str, Any]

_WHY_ENDED = {
    "signed_out": "The user signed out.",
    "revoked": "The session was revoked.",
    "expired": "The session reached the end of its lifetime.",
    "idle_timeout": "The session was unused for too long.",
    "limit": "The user signed in elsewhere and had too many sessions.",
}


def token_id(delivery: Delivery) -> str:
    """Return the id of the token for an event of one stream.

    The sequence finds the event again. The event's own id keeps the token's id unique, even if a restored database
    counts its sequences again.
    """
    return f"{delivery.event_id}.{delivery.sequence}"


def parse_token_id(text: str) -> tuple[UUID, int] | None:
    """Return the event id and the sequence in the id of a token; None if it is no such id."""
    event_id, _, sequence = text.partition(".")
    if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 18):
        return None
    try:
        return UUID(event_id), int(sequence)
    except ValueError:
        return None


def verification_body(state: str | None, now: datetime) -> str:
    """Return the body of a verification that a receiver asked for."""
    return as_payload(
        {
            "type": VERIFICATION_BODY,
            "timestamp": _text(now),
            "data": {} if state is None else {"state": state},
        }
    )


def stream_updated_body(status: str, reason: str, now: datetime) -> str:
    """Return the body of an event about a change of a stream that its receiver did not ask for."""
    data = {"status": status} | ({"reason": reason} if reason else {})
    return as_payload({"type": STREAM_UPDATED_BODY, "timestamp": _text(now), "data": data})


def shown_error(code: str) -> str:
    """Return a code of a receiver as operators see it. A text in another form could be anything."""
    return code if _ERROR_CODE.fullmatch(code) else "without a usable code"


def claims(issuer: str, stream_id: UUID, owner: str, delivery: Delivery) -> Claims:
    """Return the claims of the token for an event.

    Each attempt to deliver an event has the same claims.

    Args:
        issuer: The issuer of all tokens.
        stream_id: The stream.
        owner: The owner of the stream.
        delivery: The event.
    """
    body = json.loads(delivery.payload)
    data = body["data"]
    # Some events of a user have no time of their own.
    time = data.get(_TIMES.get(delivery.event_type, ""), body["timestamp"])
    common: Claims = {
        "iss": issuer,
        "jti": token_id(delivery),
        "iat": int(delivery.create_time.timestamp()),
        "aud": audience(owner),
        "txn": str(delivery.event_id),
    }
    if delivery.event_type is EventType.TEST:
        subject: Claims = {"format": "opaque", "id": str(stream_id)}
        return common | {"sub_id": subject, "events": _of_stream(body["type"], data)}
    uri, details = _EVENTS[delivery.event_type](data)
    event = {"event_timestamp": int(datetime.fromisoformat(time).timestamp()), **details}
    return common | {"sub_id": _subject(issuer, data), "events": {uri: event}}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_TIMES = {
    EventType.SESSION_ESTABLISHED: "create_time",
    EventType.SESSION_ENDED: "end_time",
    EventType.SESSIONS_SWEPT: "sweep_time",
    EventType.REAUTHENTICATED: "authenticate_time",
}


def _of_stream(body_type: str, data: Data) -> Claims:
    if body_type == STREAM_UPDATED_BODY:
        return {STREAM_UPDATED: dict(data)}
    # Also for an operator's test. Only a verification that the receiver asked for has a state.
    return {VERIFICATION: {"state": data["state"]} if "state" in data else {}}


def _subject(issuer: str, data: Data) -> Claims:
    """Return the user, and the session if there is one. The issuer as a tenant stands for all users."""
    user_id = data.get("user_id")
    if not user_id:
        return {"format": "complex", "tenant": {"format": "opaque", "id": issuer}}
    subject: Claims = {
        "format": "complex",
        "user": {"format": "iss_sub", "iss": issuer, "sub": user_id},
    }
    if "session_id" in data:
        subject["session"] = {"format": "opaque", "id": data["session_id"]}
    return subject


def _established(data: Data) -> tuple[str, Claims]:
    details: Claims = {"initiating_entity": "user", "ext_id": data["session_id"]}
    if methods := data["authentication_methods"]:
        details["amr"] = methods
    return SESSION_ESTABLISHED, details


def _ended(data: Data) -> tuple[str, Claims]:
    why = _WHY_ENDED.get(data["reason"], "The session ended.")
    return SESSION_REVOKED, _initiated(data, why)


def _swept(data: Data) -> tuple[str, Claims]:
    kept = data.get("kept_session_id")
    if kept is None:
        users = "the user" if data.get("user_id") else "all users"
        return SESSION_REVOKED, _initiated(data, f"All sessions of {users} were revoked.")
    details = _initiated(data, "All other sessions of the user were revoked.")
    # CAEP has no subject for this. A receiver that ignores the claim ends one session too many, and never one too few.
    return SESSION_REVOKED, details | {"kept_session_id": kept}


def _reauthenticated(data: Data) -> tuple[str, Claims]:
    methods: Sequence[str] = data["authentication_methods"]
    return ASSURANCE_LEVEL_CHANGE, {
        "initiating_entity": "user",
        # No namespace of CAEP is for several methods, so this is a namespace of our own, as CAEP allows.
        "namespace": "amr",
        "current_level": " ".join(methods) or "unspecified",
    }


def _superseded(_data: Data) -> tuple[str, Claims]:
    return RISK_LEVEL_CHANGE, {
        "initiating_entity": "system",
        "principal": "SESSION",
        "current_level": "HIGH",
        "risk_reason": "SUPERSEDED_TOKEN_USED",
        "reason_admin": {"en": "A superseded token of the session was used. It may be stolen."},
    }


def _initiated(data: Data, why: str) -> Claims:
    return {"initiating_entity": data["initiating_entity"], "reason_admin": {"en": why}}


_EVENTS: Mapping[EventType, Callable[[Data], tuple[str, Claims]]] = {
    EventType.SESSION_ESTABLISHED: _established,
    EventType.SESSION_ENDED: _ended,
    EventType.SESSIONS_SWEPT: _swept,
    EventType.REAUTHENTICATED: _reauthenticated,
    EventType.SUPERSEDED_TOKEN_USED: _superseded,
}
