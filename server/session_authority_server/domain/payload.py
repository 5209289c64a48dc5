"""The bodies that receivers get: JSON as the Standard Webhooks specification recommends.

    {"type": "session-ended", "timestamp": "2026-01-15T12:00:00.000000Z", "data": {...}}

docs/use/events.md lists the keys of `data`. No body contains a token, a key or a hash.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import singledispatchmethod
from typing import Any

from session_authority_server.domain.event import (
    Event,
    SessionEnded,
    SessionEstablished,
    SessionReauthenticated,
    SessionsSwept,
)
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.session import Session
from session_authority_server.domain.token import mask_tokens

# The largest body, with room for every field at its limit.
PAYLOAD_LIMIT_BYTES = 20_000
# The longest time from writing a body to the end of its commit. After it, the commit has succeeded, failed, or is in
# doubt.
COMMIT_TIME = timedelta(seconds=5)

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SupersededTokenUsed:
    """A caller presented a token after the grace period that follows its replacement."""

    session: Session
    time: datetime


@dataclass(frozen=True, slots=True)
class UserErased:
    """The data of a user is being deleted."""

    user_id: str
    time: datetime


# An event that receivers may want. The audit log records the last two in another form.
Reportable = Event | SupersededTokenUsed | UserErased


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event as receivers get it. An empty user id means everybody."""

    event_type: EventType
    user_id: str
    payload: str = field(repr=False)


class Payloads:
    """Turns events into the bodies that receivers get."""

    def __init__(self, policy: Policy, locate: Callable[[str | None], Location | None]) -> None:
        """Take the rules for addresses and times.

        Args:
            policy: Says what may be known of an address, and how long caches keep an answer.
            locate: Returns the location of an address, if it is known.
        """
        self._policy = policy
        self._locate = locate

    def of(self, event: Reportable, now: datetime) -> Iterator[Outgoing]:
        """Yield the events for receivers that follow from an event; none from events about API keys.

        Args:
            event: The event.
            now: The present time, shortly before the commit.
        """
        for event_type, user_id, data in self._data(event, now):
            fields = {"type": event_type.value, "timestamp": _text(event.time), "data": data}
            yield Outgoing(event_type, user_id, as_payload(fields))

    @singledispatchmethod
    def _data(self, _event: Reportable, _now: datetime) -> Iterator[tuple[EventType, str, Data]]:
        yield from ()

    @_data.register
    def _established(
        self, event: SessionEstablished, _now: datetime
    ) -> Iterator[tuple[EventType, str, Data]]:
        session = event.session
        data = self._of_sign_in(session)
        yield EventType.SESSION_ESTABLISHED, session.user_id, data
        if session.new_device:
            yield EventType.NEW_DEVICE, session.user_id, data

    @_data.register
    def _ended(self, event: SessionEnded, now: datetime) -> Iterator[tuple[EventType, str, Data]]:
        ending = event.ending
        yield (
            EventType.SESSION_ENDED,
            event.user_id,
            {
                "user_id": event.user_id,
                "session_id": str(event.session_id),
                "end_time": _text(ending.time),
                "reason": ending.reason.value,
                "initiating_entity": ending.initiated_by.value,
                "effective_time": self._effective_time(now),
            },
        )

    @_data.register
    def _swept(self, event: SessionsSwept, now: datetime) -> Iterator[tuple[EventType, str, Data]]:
        data: Data = {"user_id": event.user_id} if event.user_id else {"everybody": True}
        data |= {
            "sweep_time": _text(event.time),
            "initiating_entity": event.sweep.initiated_by.value,
            "effective_time": self._effective_time(now),
        }
        if event.kept is not None:
            data["kept_session_id"] = str(event.kept)
        yield EventType.SESSIONS_SWEPT, event.user_id, data

    @_data.register
    def _reauthenticated(
        self, event: SessionReauthenticated, _now: datetime
    ) -> Iterator[tuple[EventType, str, Data]]:
        session = event.session
        data = _of_session(session) | {
            "authenticate_time": _text(session.authenticate_time),
            "authentication_methods": list(session.authentication_methods),
        }
        yield EventType.REAUTHENTICATED, session.user_id, data

    @_data.register
    def _superseded(
        self, event: SupersededTokenUsed, _now: datetime
    ) -> Iterator[tuple[EventType, str, Data]]:
        session = event.session
        yield EventType.SUPERSEDED_TOKEN_USED, session.user_id, _of_session(session)

    @_data.register
    def _erased(self, event: UserErased, _now: datetime) -> Iterator[tuple[EventType, str, Data]]:
        yield EventType.USER_ERASED, event.user_id, {"user_id": event.user_id}

    def _of_sign_in(self, session: Session) -> Data:
        device = session.device
        data = _of_session(session) | {
            "create_time": _text(session.create_time),
            "authenticate_time": _text(session.authenticate_time),
            "expire_time": _text(session.expire_time),
            "authentication_methods": list(session.authentication_methods),
            "device": {
                "display_name": device.display_name,
                "browser": device.browser,
                "os": device.os,
                "type": device.type.value,
            },
            "new_device": session.new_device,
        }
        if session.actor_id:
            data["actor_id"] = session.actor_id
        # A receiver keeps what it gets, so it must not get what is erased when the session ends.
        if session.ip_address and self._policy.erase_addresses is not EraseAddresses.AT_END:
            data["ip_address"] = session.ip_address
            location = self._locate(session.ip_address)
            if location is not None:
                data["location"] = asdict(location)
        return data

    def _effective_time(self, now: datetime) -> str:
        return _text(self._policy.effective_time(now + COMMIT_TIME))


def as_payload(fields: Data) -> str:
    """Return fields as JSON text, without anything that looks like a token."""
    # No field holds a token, but an app's user id might contain one.
    return mask_tokens(json.dumps(fields, separators=(",", ":"), ensure_ascii=False))


def a_test(receiver_name: str, now: datetime) -> str:
    """Return the body of a test event."""
    data = {"receiver": receiver_name}
    return as_payload({"type": EventType.TEST.value, "timestamp": _text(now), "data": data})


def _of_session(session: Session) -> Data:
    return {"user_id": session.user_id, "session_id": str(session.session_id)}


def _text(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
