"""Receivers of events, and the deliveries that wait for them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID


class EventType(Enum):
    """A type of event that a receiver can ask for. The values are the names that receivers see."""

    SESSION_ESTABLISHED = "session-established"
    NEW_DEVICE = "new-device"
    SESSION_ENDED = "session-ended"
    SESSIONS_SWEPT = "sessions-swept"
    REAUTHENTICATED = "reauthenticated"
    SUPERSEDED_TOKEN_USED = "superseded-token-used"  # noqa: S105 - a name
    USER_ERASED = "user-erased"
    TEST = "test"


# Every type that a receiver can ask for. A test event goes to its receiver without being asked for.
WANTABLE = frozenset(EventType) - {EventType.TEST}


class ReceiverState(Enum):
    """The way in which a receiver's events are treated.

    The store keeps the position of a member: append members, and never reorder them.
    """

    ACTIVE = "active"  # events are delivered
    PAUSED = "paused"  # an operator stopped the delivery; events wait
    PARKED = "parked"  # a worker stopped the delivery, because it failed for days; events wait
    REMOVED = "removed"  # an operator removed the receiver; the worker deletes its events
    DISABLED = "disabled"  # the receiver disabled its stream; no events are written for it


class ReceiverKind(Enum):
    """The way in which events reach a receiver.

    The store keeps the position of a member: append members, and never reorder them.
    """

    WEBHOOK = "webhook"
    SSF_PUSH = "ssf-push"  # a stream of security events that are pushed
    SSF_POLL = "ssf-poll"  # a stream of security events that the receiver polls


@dataclass(frozen=True, slots=True)
class Receiver:
    """A program that gets events.

    Attributes:
        receiver_id: Its id.
        name: The name that operators use. Unique.
        url: Where to deliver.
        event_types: The types that it wants.
        create_time: When it was added.
        kind: How it gets its events.
        state: Whether events are delivered.
        generation: The generation of its signing key, from 1. A rotation adds 1.
        rotate_time: When the present generation began; None for the first one.
        last_success_time: When an event was last delivered.
        last_failure_time: When a delivery last failed.
        failing_since: When the first delivery after the last success failed; None if no delivery has failed since.
        problem: Why the last delivery failed.
        dropped: How many of its events were dropped, because too many waited.
        owner: The name of the API keys that own it, if it is a stream of security events; None for a webhook.
        sealed_authorization: The encrypted value of the header Authorization of each push, if there is one.
    """

    receiver_id: UUID
    name: str
    url: str = field(repr=False)  # It may contain a secret.
    event_types: frozenset[EventType]
    create_time: datetime
    kind: ReceiverKind = ReceiverKind.WEBHOOK
    state: ReceiverState = ReceiverState.ACTIVE
    generation: int = 1
    rotate_time: datetime | None = None
    last_success_time: datetime | None = None
    last_failure_time: datetime | None = None
    failing_since: datetime | None = None
    problem: str = ""
    dropped: int = 0
    owner: str | None = None
    sealed_authorization: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that waits for one receiver.

    Attributes:
        sequence: The order of events. Events of the same user are delivered in this order.
        event_id: The id of the event, the same for all receivers. Receivers ignore an id that they have seen.
        user_id: The user; "" for everybody; None for a test, which no other event delays.
        event_type: The type.
        payload: The body to send: JSON text that never changes.
        create_time: When the event was written.
        attempts: How many deliveries have failed.
        first_failure_time: When the first of these failed.
    """

    sequence: int
    event_id: UUID
    user_id: str | None
    event_type: EventType
    payload: str = field(repr=False)
    create_time: datetime
    attempts: int = 0
    first_failure_time: datetime | None = None
