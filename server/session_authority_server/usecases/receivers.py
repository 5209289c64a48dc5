"""Operators manage the receivers of events."""

import re
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from session_authority_server.domain import webhook
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import InvalidRequest, Violation
from session_authority_server.domain.event import ReceiverChange, ReceiverChanged
from session_authority_server.domain.payload import a_test
from session_authority_server.domain.receiver import EventType, Receiver, ReceiverState
from session_authority_server.domain.security_event import stream_updated_body
from session_authority_server.domain.token import new_id
from session_authority_server.ports.outbox import Backlog, Outbox, Outcome, ReceiverStore
from session_authority_server.ports.store import BATCH_LIMIT, NO_AUDIT, Audit

# Each event is written once for each receiver that wants it.
RECEIVERS_LIMIT = 20
NAME_LIMIT_CHARACTERS = 64
BACKLOG_LIMIT = 100_000
# Events are for a new receiver from this time after the addition on. By then, every process knows the receiver.
START_DELAY = timedelta(seconds=10)
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LIMIT_CHARACTERS - 1}}}")


class ReceiverNotFound(Exception):
    """No receiver has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no receiver {name}; `session-authority receivers list` shows all receivers"
        )


class NameTaken(Exception):
    """Another receiver has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a receiver {name} already; give another name, or remove it")


class TooManyReceivers(Exception):
    """There are already RECEIVERS_LIMIT receivers."""

    def __init__(self) -> None:
        super().__init__(
            f"there are already {RECEIVERS_LIMIT} receivers, which is the limit; remove one"
        )


class ManagedByItself(Exception):
    """The receiver manages its stream of security events itself."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is a stream of security events, which its receiver manages; remove it, or revoke the API keys of "
            "its receiver"
        )


class RotatedMeanwhile(Exception):
    """Another operator rotated the key at the same time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another command has just rotated the key of {name}; try again")


class NotActive(Exception):
    """A receiver is paused or parked, so it gets no events."""

    def __init__(self, receiver: Receiver) -> None:
        name, state = receiver.name, receiver.state.value
        super().__init__(
            f"the receiver {name} is {state}; run `session-authority receivers resume {name}` first"
        )


class Listed(NamedTuple):
    """A receiver and the events that wait for it."""

    receiver: Receiver
    backlog: Backlog


class Receivers:
    """Manages receivers. Each method raises StoreUnavailable if the store failed."""

    def __init__(
        self, store: ReceiverStore, outbox: Outbox, clock: Clock, audit: Audit = NO_AUDIT
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._audit = audit

    async def list(self) -> Sequence[Listed]:
        """Return all receivers, the oldest first. Counting the events that wait stops at BACKLOG_LIMIT."""
        backlogs = await self._outbox.backlogs(BACKLOG_LIMIT)
        return [
            Listed(each, backlogs.get(each.name, Backlog(each.state, 0, None)))
            for each in await self._store.read_receivers()
        ]

    async def add(
        self, name: str, url: str, event_types: Collection[EventType]
    ) -> tuple[Receiver, datetime]:
        """Add a receiver. Return it, and the time from which on events are written for it.

        Raises:
            InvalidRequest: If the name or the URL is not allowed.
            NameTaken: If another receiver has this name.
            TooManyReceivers: If there are already RECEIVERS_LIMIT receivers.
        """
        _check(name, url)
        if len(await self._store.read_receivers()) >= RECEIVERS_LIMIT:
            raise TooManyReceivers
        now = self._clock.now()
        receiver = Receiver(new_id(now), name, url, frozenset(event_types), now)
        if not await self._store.add_receiver(receiver, now + START_DELAY):
            raise NameTaken(name)
        self._record(receiver, ReceiverChange.ADDED)
        return receiver, now + START_DELAY

    async def pause(self, name: str) -> Receiver:
        """Stop the delivery to a receiver. Its events wait.

        Raises:
            ReceiverNotFound: If there is no such receiver.
            ManagedByItself: If the receiver has a stream of security events.
        """
        _refuse_stream(await self._find(name))
        return await self._set_state(name, ReceiverState.PAUSED, ReceiverChange.PAUSED)

    async def resume(self, name: str) -> Receiver:
        """Deliver the events of a paused or parked receiver, beginning now.

        Raises:
            ReceiverNotFound: If there is no such receiver.
            ManagedByItself: If the receiver has paused or disabled its stream of security events.
        """
        receiver = await self._find(name)
        now = self._clock.now()
        if receiver.owner is not None:
            if receiver.state is not ReceiverState.PARKED:
                raise ManagedByItself(name)
            # A receiver must learn of a change of its stream that it did not ask for.
            body = stream_updated_body("enabled", "Resumed by an operator", now)
            await self._store.add_test(receiver.receiver_id, new_id(now), body, now)
        while await self._store.hurry(receiver.receiver_id, now, BATCH_LIMIT):
            pass
        return await self._set_state(name, ReceiverState.ACTIVE, ReceiverChange.RESUMED)

    async def remove(self, name: str) -> Receiver:
        """Remove a receiver. The worker deletes its events.

        Raises:
            ReceiverNotFound: If there is no such receiver.
        """
        receiver = await self._find(name)
        if not await self._store.remove_receiver(receiver.receiver_id, self._clock.now()):
            raise ReceiverNotFound(name)
        self._record(receiver, ReceiverChange.REMOVED)
        return receiver

    async def rotate(self, name: str) -> Receiver:
        """Begin the next generation of a receiver's key. The former one also signs for a while.

        Raises:
            ReceiverNotFound: If there is no such receiver.
            RotatedMeanwhile: If another call rotated the key at the same time.
            ManagedByItself: If the receiver has a stream of security events, whose keys are those of all streams.
        """
        receiver = await self._find(name)
        _refuse_stream(receiver)
        now = self._clock.now()
        if not await self._store.rotate_key(receiver.receiver_id, receiver.generation, now):
            raise RotatedMeanwhile(name)
        self._record(receiver, ReceiverChange.ROTATED)
        return await self._find(name)

    async def replay(self, name: str, since: datetime) -> int:
        """Deliver again what was delivered and was written since a time. Return how many events that are.

        The receiver is paused meanwhile, so that no later event overtakes them.

        Raises:
            ReceiverNotFound: If there is no such receiver.
        """
        receiver = await self._find(name)
        receiver_id, now = receiver.receiver_id, self._clock.now()
        await self._store.set_state(receiver_id, ReceiverState.PAUSED)
        self._record(receiver, ReceiverChange.REPLAYED)
        count = last = 0
        try:
            while found := await self._store.replay(receiver_id, since, now, last, BATCH_LIMIT):
                count += len(found)
                last = max(found)
        finally:
            await self._store.set_state(receiver_id, receiver.state)
        return count

    async def send_test(self, name: str) -> int:
        """Write a test event for a receiver. Return its sequence.

        Raises:
            ReceiverNotFound: If there is no such receiver.
            NotActive: If the receiver is paused or parked, so that the event would wait.
        """
        receiver, now = await self._find(name), self._clock.now()
        if receiver.state is not ReceiverState.ACTIVE:
            raise NotActive(receiver)
        payload = a_test(receiver.name, now)
        return await self._store.add_test(receiver.receiver_id, new_id(now), payload, now)

    async def outcome_of_test(self, sequence: int) -> Outcome | None:
        """Return the outcome of a test event; None if the event was deleted."""
        return await self._store.read_test(sequence)

    async def _set_state(self, name: str, state: ReceiverState, change: ReceiverChange) -> Receiver:
        receiver = await self._find(name)
        if not await self._store.set_state(receiver.receiver_id, state):
            raise ReceiverNotFound(name)
        self._record(receiver, change)
        return receiver

    async def _find(self, name: str) -> Receiver:
        for receiver in await self._store.read_receivers():
            if receiver.name == name:
                return receiver
        raise ReceiverNotFound(name)

    def _record(self, receiver: Receiver, change: ReceiverChange) -> None:
        self._audit.record(ReceiverChanged(receiver.name, change, self._clock.now()))


def _refuse_stream(receiver: Receiver) -> None:
    if receiver.owner is not None:
        raise ManagedByItself(receiver.name)


def _check(name: str, url: str) -> None:
    violations = []
    if not _NAME.fullmatch(name):
        problem = (
            f"must be 1 to {NAME_LIMIT_CHARACTERS} letters, digits, dots, hyphens or underscores, "
            "and begin with a letter or digit"
        )
        violations.append(Violation("name", problem))
    try:
        webhook.check_url(url)
    except ValueError as error:
        violations.append(Violation("url", f"can't be used: {error}"))
    if violations:
        raise InvalidRequest(violations)
