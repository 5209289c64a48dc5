"""An outbox in memory, for tests of the deliveries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.receiver import (
    WANTABLE,
    Delivery,
    EventType,
    Receiver,
    ReceiverState,
)
from session_authority_server.ports.outbox import Backlog
from tests.support.engines import START


@dataclass
class _Row:
    receiver_id: UUID
    delivery: Delivery
    due_time: datetime
    is_pending: bool = True


@dataclass
class FakeOutbox:
    """Implements the port `Outbox`.

    Attributes:
        receivers: The receivers, by id.
        leases: The worker and the end of each lease.
        fails: Whether every method raises StoreUnavailable.
        read: How many events `due` has returned.
    """

    receivers: dict[UUID, Receiver] = field(default_factory=dict)
    leases: dict[UUID, tuple[UUID, datetime]] = field(default_factory=dict)
    fails: bool = False
    read: int = 0
    _rows: list[_Row] = field(default_factory=list)

    def add_receiver(self, url: str = "http://127.0.0.1/", name: str = "mailer") -> Receiver:
        added = Receiver(uuid4(), name, url, WANTABLE, START)
        self.receivers[added.receiver_id] = added
        return added

    def write(self, receiver: Receiver, user_id: str | None, count: int = 1) -> Sequence[UUID]:
        """Write events of a user. Return their ids."""
        written = []
        for _ in range(count):
            payload = '{"type":"test","timestamp":"2026-01-15T12:00:00Z","data":{}}'
            delivery = Delivery(
                len(self._rows) + 1, uuid4(), user_id, EventType.TEST, payload, START
            )
            self._rows.append(_Row(receiver.receiver_id, delivery, START))
            written.append(delivery.event_id)
        return written

    @property
    def pending(self) -> Sequence[UUID]:
        """The ids of the events that are not delivered."""
        return [each.delivery.event_id for each in self._rows if each.is_pending]

    def due_time(self, event_id: UUID) -> datetime:
        return next(each.due_time for each in self._rows if each.delivery.event_id == event_id)

    def forget_failures(self, event_id: UUID) -> None:
        for row in self._rows:
            if row.delivery.event_id == event_id:
                row.delivery = replace(row.delivery, first_failure_time=None)

    def erase(self, user_id: str) -> None:
        self._rows = [each for each in self._rows if each.delivery.user_id != user_id]

    async def lease(self, worker_id: UUID, now: datetime, seconds: float) -> Sequence[Receiver]:
        self._check()
        leased = []
        for receiver_id, receiver in self.receivers.items():
            holder, until = self.leases.get(receiver_id, (worker_id, now))
            is_free = holder == worker_id or until <= now
            if receiver.state is ReceiverState.ACTIVE and is_free:
                self.leases[receiver_id] = (worker_id, now + timedelta(seconds=seconds))
                leased.append(receiver)
        return leased

    async def release(self, worker_id: UUID) -> None:
        self._check()
        self.leases = {key: each for key, each in self.leases.items() if each[0] != worker_id}

    async def due(
        self, receiver_id: UUID, now: datetime, limit: int, busy_users: Collection[str] = ()
    ) -> Sequence[Delivery]:
        self._check()
        late: set[str | None] = set(busy_users)
        found: list[Delivery] = []
        for row in self._rows:
            if row.receiver_id != receiver_id or not row.is_pending:
                continue
            user_id = row.delivery.user_id
            if row.due_time > now and user_id is not None:
                late.add(user_id)
            if row.due_time <= now and user_id not in late and len(found) < limit:
                found.append(row.delivery)
        self.read += len(found)
        return found

    async def settle(
        self, receiver_id: UUID, worker_id: UUID, delivered: Sequence[int], now: datetime
    ) -> None:
        self._check()
        if self._holds(receiver_id, worker_id):
            for row in self._rows:
                if row.receiver_id == receiver_id and row.delivery.sequence in delivered:
                    row.is_pending = False
            self.change(receiver_id, failing_since=None)

    async def postpone(
        self,
        receiver_id: UUID,
        worker_id: UUID,
        sequence: int,
        due_time: datetime,
        problem: str,
        now: datetime,
    ) -> None:
        self._check()
        if not self._holds(receiver_id, worker_id):
            return
        self._note_problem(receiver_id, problem)
        failing_since = self.receivers[receiver_id].failing_since or now
        self.change(receiver_id, failing_since=failing_since)
        for row in self._rows:
            if row.delivery.sequence == sequence:
                row.due_time = due_time
                row.delivery = replace(
                    row.delivery,
                    attempts=row.delivery.attempts + 1,
                    first_failure_time=row.delivery.first_failure_time or now,
                )

    async def park(self, receiver_id: UUID, worker_id: UUID, problem: str, now: datetime) -> bool:
        self._check()
        if not self._holds(receiver_id, worker_id):
            return False
        self._note_problem(receiver_id, problem)
        self.change(receiver_id, state=ReceiverState.PARKED)
        return True

    def change(self, receiver_id: UUID, **fields: object) -> None:
        self.receivers[receiver_id] = replace(self.receivers[receiver_id], **fields)  # type: ignore[arg-type]

    async def drop_excess(self, limit: int) -> Mapping[str, int]:
        raise NotImplementedError

    async def purge_delivered(self, before: datetime, limit: int) -> int:
        raise NotImplementedError

    async def purge_removed(self, removed_before: datetime, limit: int) -> int:
        raise NotImplementedError

    async def backlogs(self, limit: int) -> Mapping[str, Backlog]:
        raise NotImplementedError

    def _holds(self, receiver_id: UUID, worker_id: UUID) -> bool:
        return self.leases.get(receiver_id, (None, None))[0] == worker_id

    def _note_problem(self, receiver_id: UUID, problem: str) -> None:
        self.change(receiver_id, problem=problem)

    def _check(self) -> None:
        if self.fails:
            raise StoreUnavailable("events")
