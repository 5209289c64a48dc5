"""Streams of security events for receivers that manage their streams themselves."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import (
    EventStreamExists,
    EventStreamNotFound,
    EventStreamsOff,
    VerificationTooSoon,
)
from session_authority_server.domain.event import ReceiverChange, ReceiverChanged
from session_authority_server.domain.event_stream import (
    MIN_VERIFICATION_INTERVAL,
    EventStream,
    StreamStatus,
    check_delivery,
    check_events_requested,
    check_state,
    check_status_reason,
    receiver_name,
    shortened,
)
from session_authority_server.domain.security_event import (
    parse_token_id,
    shown_error,
    token_id,
    verification_body,
)
from session_authority_server.domain.sign_in import Violations
from session_authority_server.domain.token import new_id
from session_authority_server.ports.outbox import Outbox
from session_authority_server.ports.store import NO_AUDIT, Audit
from session_authority_server.ports.streams import EventStreamStore
from session_authority_server.usecases.receivers import RECEIVERS_LIMIT, START_DELAY

if TYPE_CHECKING:
    # It imports cryptography, which a server without security events does not need in its memory.
    from session_authority_server.background.event_transmitter import EventTransmitter

ACKNOWLEDGED_LIMIT = 1_000
"""How many events a poll may acknowledge or reject."""
POLLED_LIMIT = 100
"""How many events a poll may return."""


_DISCARD_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStreams:
    """The dependencies of the use-cases about streams of events.

    Attributes:
        store: Keeps the streams.
        outbox: Keeps the events.
        clock: Gives the present time.
        configured: Makes the tokens; None if the operator has not set this up.
        audit: Records new and removed streams.
    """

    store: EventStreamStore
    outbox: Outbox
    clock: Clock
    configured: "EventTransmitter | None"
    audit: Audit = NO_AUDIT

    @property
    def transmitter(self) -> "EventTransmitter":
        """The maker of tokens.

        Raises:
            EventStreamsOff: If the operator has not set this up.
        """
        self.require_transmitter()
        assert self.configured is not None
        return self.configured

    def require_transmitter(self) -> None:
        """Raise EventStreamsOff if the operator has not set this up."""
        if self.configured is None:
            raise EventStreamsOff

    def record(self, owner: str, change: ReceiverChange) -> None:
        """Record that a receiver changed its stream."""
        name, now = receiver_name(owner), self.clock.now()
        self.audit.record(ReceiverChanged(name, change, now, by_itself=True))


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a receiver wants to get its events.

    Attributes:
        url: Where to push; "" to be polled.
        authorization: The header Authorization of each push; "" for none. None keeps it while the address stays.
    """

    url: str = ""
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a stream that its receiver makes. None leaves a part unchanged."""

    delivery: Delivery | None = None
    events_requested: Sequence[str] | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """The request of a receiver that polls.

    Attributes:
        acknowledged: The ids of tokens that it has processed.
        errors: The ids of tokens that it rejects, with its codes.
        limit: The most events to return.
    """

    acknowledged: Sequence[str]
    errors: Sequence[tuple[str, str]]
    limit: int


@dataclass(frozen=True, slots=True)
class Polled:
    """The answer to a poll: ids and tokens, and whether more events wait."""

    tokens: Sequence[tuple[str, str]]
    more_available: bool


async def create_event_stream(streams: EventStreams, owner: str, settings: Settings) -> EventStream:
    """Create the stream of an owner.

    Raises:
        InvalidRequest: If a setting breaks a limit.
        EventStreamExists: If the owner has a stream.
        ReceiverLimitReached: If the authority has too many receivers.
    """
    now = streams.clock.now()
    change = _change(streams.transmitter, settings, replace_all=True)
    stream = change(EventStream(new_id(now), owner, now))
    if not await streams.store.add_stream(stream, now + START_DELAY, RECEIVERS_LIMIT):
        raise EventStreamExists
    streams.record(owner, ReceiverChange.ADDED)
    return stream


async def read_event_stream(streams: EventStreams, owner: str) -> EventStream | None:
    """Return the stream of an owner, if there is one."""
    streams.require_transmitter()
    return await streams.store.read_stream(owner)


async def update_event_stream(
    streams: EventStreams, owner: str, stream_id: str, settings: Settings, *, replace_all: bool
) -> EventStream:
    """Change what a stream delivers and where to.

    Args:
        streams: The dependencies.
        owner: The owner of the stream.
        stream_id: The stream.
        settings: The new settings.
        replace_all: Whether absent settings get their defaults instead of staying unchanged.

    Raises:
        InvalidRequest: If a setting breaks a limit.
        EventStreamNotFound: If the owner has no such stream.
    """
    change = _change(streams.transmitter, settings, replace_all=replace_all)
    return await _changed(streams, owner, stream_id, change)


async def delete_event_stream(streams: EventStreams, owner: str, stream_id: str) -> None:
    """Delete a stream. The worker deletes the events that wait in it.

    Raises:
        EventStreamNotFound: If the owner has no such stream.
    """
    streams.require_transmitter()
    if not await streams.store.remove_stream(_id(stream_id), owner, streams.clock.now()):
        raise EventStreamNotFound
    streams.record(owner, ReceiverChange.REMOVED)


async def set_event_stream_status(
    streams: EventStreams, owner: str, stream_id: str, status: StreamStatus, reason: str
) -> EventStream:
    """Enable, pause or disable a stream. No event that was written while it was disabled is ever delivered.

    Raises:
        InvalidRequest: If the reason breaks a limit.
        EventStreamNotFound: If the owner has no such stream.
    """
    streams.require_transmitter()
    check_status_reason(reason)
    before = await streams.store.read_stream(owner)
    if status is StreamStatus.DISABLED:
        stream = await _changed(streams, owner, stream_id, _status(status, reason))
        await _discard(streams, stream.stream_id)
        return stream
    if before is not None and before.status is StreamStatus.DISABLED:
        # A transaction that began before the stream was disabled may have added events since.
        await _discard(streams, before.stream_id)
    return await _changed(streams, owner, stream_id, _status(status, reason))


async def verify_event_stream(
    streams: EventStreams, owner: str, stream_id: str, state: str | None
) -> None:
    """Put a verification event into a stream.

    Raises:
        InvalidRequest: If the state is too long.
        EventStreamNotFound: If the owner has no such stream.
        VerificationTooSoon: If the last verification was too recent.
    """
    streams.require_transmitter()
    check_state(state or "")
    now = streams.clock.now()

    def verified(stream: EventStream) -> EventStream:
        if stream.verify_time is not None:
            wait = stream.verify_time + MIN_VERIFICATION_INTERVAL - now
            # A clock that was set back must not block verifications for longer than the interval.
            if timedelta(0) < wait <= MIN_VERIFICATION_INTERVAL:
                raise VerificationTooSoon(wait)
        return replace(stream, verify_time=now)

    await _changed(streams, owner, stream_id, verified, verification_body(state, now))


async def poll_event_stream(
    streams: EventStreams, owner: str, stream_id: str, poll: Poll
) -> Polled:
    """Take acknowledgements, and return the next events of an enabled stream that is polled.

    Raises:
        InvalidRequest: If a number is too large.
        EventStreamNotFound: If the owner has no such stream, or its events are pushed.
    """
    transmitter = streams.transmitter
    _check_poll(poll)
    stream = await streams.store.read_stream(owner)
    if stream is None or stream.stream_id != _id(stream_id) or stream.url:
        raise EventStreamNotFound
    await _acknowledge(streams, stream, poll)
    if not poll.limit or stream.status is not StreamStatus.ENABLED:
        return Polled((), more_available=False)
    due = await streams.outbox.due(stream.stream_id, streams.clock.now(), poll.limit + 1)

    def signed() -> Sequence[tuple[str, str]]:
        return [
            (token_id(each), transmitter.token(stream.stream_id, owner, each))
            for each in due[: poll.limit]
        ]

    # In a thread, because a signature takes about a millisecond.
    tokens = await asyncio.to_thread(signed) if due else ()
    return Polled(tokens, more_available=len(due) > poll.limit)


def _change(
    transmitter: "EventTransmitter", settings: Settings, *, replace_all: bool
) -> Callable[[EventStream], EventStream]:
    """Check settings, and return the function that applies them to a stream.

    Raises:
        InvalidRequest: If a setting breaks a limit.
    """
    delivery, requested = settings.delivery, settings.events_requested
    violations = Violations()
    if delivery is not None:
        check_delivery(delivery.url, delivery.authorization or None, violations)
    check_events_requested(requested or (), violations)
    violations.raise_if_any()

    def changed(stream: EventStream) -> EventStream:
        if replace_all or delivery is not None:
            wanted = delivery or Delivery()
            sealed = stream.sealed_authorization if wanted.url == stream.url else None
            if wanted.authorization is not None:
                secret = wanted.authorization
                sealed = transmitter.seal(stream.stream_id, secret) if secret else None
            stream = replace(stream, url=wanted.url, sealed_authorization=sealed)
        if replace_all or requested is not None:
            stream = replace(
                stream, events_requested=None if requested is None else tuple(requested)
            )
        if replace_all or settings.description is not None:
            stream = replace(stream, description=shortened(settings.description or ""))
        return stream

    return changed


def _status(status: StreamStatus, reason: str) -> Callable[[EventStream], EventStream]:
    return lambda stream: replace(stream, status=status, reason=reason)


async def _changed(
    streams: EventStreams,
    owner: str,
    stream_id: str,
    change: Callable[[EventStream], EventStream],
    body: str | None = None,
) -> EventStream:
    changed = await streams.store.change_stream(
        _id(stream_id), owner, change, streams.clock.now(), body
    )
    if changed is None:
        raise EventStreamNotFound
    return changed


async def _discard(streams: EventStreams, stream_id: UUID) -> None:
    while await streams.store.discard(stream_id, _DISCARD_BATCH):
        pass


async def _acknowledge(streams: EventStreams, stream: EventStream, poll: Poll) -> None:
    now = streams.clock.now()
    taken = [found for each in poll.acknowledged if (found := parse_token_id(each))]
    if taken:
        await streams.store.acknowledge(stream.stream_id, taken, now)
    rejected = [found for each, _ in poll.errors if (found := parse_token_id(each))]
    if rejected:
        problem = f"the receiver rejected an event: {shown_error(poll.errors[0][1])}"
        await streams.store.acknowledge(stream.stream_id, rejected, now, problem)


def _check_poll(poll: Poll) -> None:
    violations = Violations()
    if not 0 <= poll.limit <= POLLED_LIMIT:
        violations.add("limit", f"must be 0 to {POLLED_LIMIT}")
    if len(poll.acknowledged) + len(poll.errors) > ACKNOWLEDGED_LIMIT:
        violations.add(
            "acknowledged",
            f"must have at most {ACKNOWLEDGED_LIMIT} ids, with those in errors; send the rest in another poll",
        )
    violations.raise_if_any()


def _id(text: str) -> UUID:
    """Return the id of a stream. A text that is no id names no stream.

    Raises:
        EventStreamNotFound: If the text is not an id.
    """
    try:
        return UUID(text)
    except ValueError:
        raise EventStreamNotFound from None
