"""Streams of security events, as the OpenID Shared Signals Framework 1.0 defines them.

https://openid.net/specs/openid-sharedsignals-framework-1_0-final.html
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from urllib.parse import urlsplit
from uuid import UUID

from session_authority_server.domain.receiver import EventType, ReceiverState
from session_authority_server.domain.sign_in import Violations, check_reason
from session_authority_server.domain.webhook import check_url

EVENTS_REQUESTED_LIMIT = 50
EVENT_URI_LIMIT_CHARACTERS = 200
DESCRIPTION_LIMIT_CHARACTERS = 200
AUTHORIZATION_LIMIT_CHARACTERS = 1_000
STATE_LIMIT_CHARACTERS = 1_000
MIN_VERIFICATION_INTERVAL = timedelta(seconds=5)

_CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
SESSION_ESTABLISHED = _CAEP + "session-established"
SESSION_REVOKED = _CAEP + "session-revoked"
ASSURANCE_LEVEL_CHANGE = _CAEP + "assurance-level-change"
RISK_LEVEL_CHANGE = _CAEP + "risk-level-change"

# The events of the authority from which the events of a stream are made. An erasure needs none of its own, because it
# also sweeps the user's sessions.
SOURCES: Mapping[str, frozenset[EventType]] = {
    SESSION_ESTABLISHED: frozenset({EventType.SESSION_ESTABLISHED}),
    SESSION_REVOKED: frozenset({EventType.SESSION_ENDED, EventType.SESSIONS_SWEPT}),
    ASSURANCE_LEVEL_CHANGE: frozenset({EventType.REAUTHENTICATED}),
    RISK_LEVEL_CHANGE: frozenset({EventType.SUPERSEDED_TOKEN_USED}),
}
EVENTS_SUPPORTED = tuple(SOURCES)

_VISIBLE = re.compile(r"[!-~]+")
_HEADER = re.compile(r"[!-~]+( +[!-~]+)*")


class StreamStatus(Enum):
    """Whether the events of a stream are delivered."""

    ENABLED = "enabled"
    PAUSED = "paused"  # events wait
    DISABLED = "disabled"  # events are dropped


STATES: Mapping[StreamStatus, ReceiverState] = {
    StreamStatus.ENABLED: ReceiverState.ACTIVE,
    StreamStatus.PAUSED: ReceiverState.PAUSED,
    StreamStatus.DISABLED: ReceiverState.DISABLED,
}


@dataclass(frozen=True, slots=True)
class EventStream:
    """A stream of events to one receiver.

    Attributes:
        stream_id: Its id, which is also the id of its receiver.
        owner: The name of the API keys that may use it.
        create_time: When it was created.
        url: Where events are pushed; "" if the receiver polls.
        sealed_authorization: The encrypted value of the header Authorization of each push; None for no header.
        events_requested: The types that the receiver asked for, as it wrote them; None for all.
        description: The receiver's own words.
        status: Whether events are delivered.
        reason: Why the status is what it is.
        verify_time: When the receiver last asked for a verification.
    """

    stream_id: UUID
    owner: str
    create_time: datetime
    url: str = field(default="", repr=False)  # It may contain a secret.
    sealed_authorization: bytes | None = field(default=None, repr=False)
    events_requested: tuple[str, ...] | None = None
    description: str = ""
    status: StreamStatus = StreamStatus.ENABLED
    reason: str = ""
    verify_time: datetime | None = None

    @property
    def events_delivered(self) -> Sequence[str]:
        """The types of events in the stream."""
        if self.events_requested is None:
            return EVENTS_SUPPORTED
        return [each for each in EVENTS_SUPPORTED if each in self.events_requested]

    @property
    def event_types(self) -> frozenset[EventType]:
        """The events of the authority that make the events of the stream."""
        return frozenset().union(*(SOURCES[each] for each in self.events_delivered))


def check_issuer(issuer: str) -> None:
    """Check the address of the gateway, which is the issuer of all tokens.

    Raises:
        ValueError: If the address has another form. The message says how to correct it.
    """
    check_url(issuer)
    parts = urlsplit(issuer)
    if parts.path or parts.query or issuer.endswith(("/", "?", "#")):
        raise ValueError("give an address without a path, such as https://signals.example.com")


def receiver_name(owner: str) -> str:
    """Return what operators see as the name of an owner's stream. No webhook can have such a name."""
    return f"ssf:{owner}"


def audience(owner: str) -> str:
    """Return the audience of the tokens for an owner of streams. Without API keys, the owner has no name."""
    return owner or "receiver"


def check_delivery(url: str, authorization: str | None, violations: Violations) -> None:
    """Check where events are pushed, and the header Authorization to send with them."""
    if url:
        try:
            check_url(url)
        except ValueError as error:
            violations.add("delivery.endpoint_url", str(error))
    elif authorization is not None:
        violations.add("delivery.authorization_header", "is for pushes; this stream is polled")
    if authorization is not None and not (
        len(authorization) <= AUTHORIZATION_LIMIT_CHARACTERS and _HEADER.fullmatch(authorization)
    ):
        violations.add(
            "delivery.authorization_header",
            f"must be 1 to {AUTHORIZATION_LIMIT_CHARACTERS} visible ASCII characters and spaces between them",
        )


def check_events_requested(requested: Sequence[str], violations: Violations) -> None:
    """Check the types that a receiver asks for. Unknown types are allowed, because they are ignored."""
    if len(requested) > EVENTS_REQUESTED_LIMIT:
        violations.add(
            "events_requested",
            f"has {len(requested)} types; at most {EVENTS_REQUESTED_LIMIT} are allowed",
        )
    elif not all(
        len(each) <= EVENT_URI_LIMIT_CHARACTERS and _VISIBLE.fullmatch(each) for each in requested
    ):
        violations.add(
            "events_requested",
            f"must be URIs of 1 to {EVENT_URI_LIMIT_CHARACTERS} visible ASCII characters",
        )


def shortened(description: str) -> str:
    """Return a description of at most DESCRIPTION_LIMIT_CHARACTERS, without control characters."""
    return "".join(filter(str.isprintable, description[:DESCRIPTION_LIMIT_CHARACTERS]))


def check_status_reason(reason: str) -> None:
    """Check why a receiver changes the status.

    Raises:
        InvalidRequest: If the reason is too long or has control characters.
    """
    violations = Violations()
    check_reason(reason, violations)
    violations.raise_if_any()


def check_state(state: str) -> None:
    """Check the text that a verification repeats.

    Raises:
        InvalidRequest: If the text is too long.
    """
    violations = Violations()
    if len(state) > STATE_LIMIT_CHARACTERS:
        violations.add("state", f"must have at most {STATE_LIMIT_CHARACTERS} characters")
    violations.raise_if_any()
