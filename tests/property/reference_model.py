"""A small reference model of the use cases: one user agent, one clock, no store."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity

USER, POLICY = InitiatingEntity.USER, InitiatingEntity.POLICY
ADMIN = InitiatingEntity.ADMIN


@dataclass
class Known:
    """A session in the model."""

    session_id: UUID
    user_id: str
    token: str
    lifetime: timedelta
    idle_timeout: timedelta | None
    last_active_time: datetime
    expire_time: datetime
    renewed_time: datetime
    made_by_key: bool = False
    swept: datetime | None = None
    swept_by: InitiatingEntity = USER
    recorded: Ending | None = None
    gathered: datetime | None = None
    old_tokens: list[str] = field(default_factory=list)

    def ending(self, now: datetime) -> Ending | None:
        """Return how the session ended, or None."""
        if self.recorded is not None:
            return self.recorded
        ends = []
        if self.swept is not None:
            ends.append(Ending(self.swept, EndReason.REVOKED, self.swept_by))
        if self.idle_timeout is not None:
            idle = self.last_active_time + self.idle_timeout
            ends.append(Ending(idle, EndReason.IDLE_TIMEOUT, POLICY))
        ends.append(Ending(self.expire_time, EndReason.EXPIRED, POLICY))
        first = min(ends, key=lambda ending: ending.time)
        return first if self.swept is not None or first.time <= now else None

    def is_live(self, now: datetime) -> bool:
        return self.ending(now) is None

    def sweep(self, now: datetime, by: InitiatingEntity) -> None:
        """Record a sweep of all sessions, unless a later sweep is already recorded."""
        if self.swept is None:
            self.swept, self.swept_by = now, by

    def use(self, now: datetime, resolution: timedelta, decisive: timedelta) -> None:
        """Record a validation that counts as activity."""
        if self.idle_timeout is not None:
            resolution = min(resolution, self.idle_timeout / 10)
        if now - self.last_active_time < resolution:
            return
        idle = self.idle_timeout
        if idle is not None and self.last_active_time + idle - now < decisive:
            self.last_active_time = now
        else:
            self.gathered = now

    def flush(self, now: datetime) -> None:
        """Write the pending activity, if it still counts."""
        if self.gathered is not None and self.is_live(now):
            self.last_active_time = max(self.gathered, self.last_active_time)
        self.gathered = None


def by_activity(known: Iterable[Known]) -> list[Known]:
    """Return sessions in the order of the list of live sessions."""
    return sorted(known, key=lambda each: (each.last_active_time, each.session_id), reverse=True)


def by_ending(known: Iterable[Known], now: datetime) -> list[Known]:
    """Return sessions in the order of the list of ended sessions."""

    def key(each: Known) -> tuple[datetime, UUID]:
        ending = each.ending(now)
        assert ending is not None
        return ending.time, each.session_id

    return sorted(known, key=key, reverse=True)
