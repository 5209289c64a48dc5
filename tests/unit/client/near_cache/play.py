"""The core of a near cache, with manual clocks."""

from datetime import datetime, timedelta
from typing import Any

from session_authority import NearCache, Rejection, RejectionReason, Session
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.entries import key_of
from session_authority.near_cache.flights import Flight
from session_authority.near_cache.operations import decoded
from tests.support.fake_authority import NOON, session_message

LEASE = 2.0
BOOT = 1000.0


class Play:
    """A core, its clocks, and the answers of an authority."""

    def __init__(self, *, connected: bool = True, **settings: Any) -> None:
        self.now = BOOT
        self.wall = NOON
        self.due: list[Due] = []
        self.core = NearCacheCore(NearCache(**settings), decoded, self.due.append)
        self.generation = 0
        if connected:
            self.connect()

    def connect(self) -> None:
        self.generation = self.core.stream_opened()
        self.renew()

    def renew(self, lease: float = LEASE) -> None:
        ping_id = self.core.ping_sent(self.generation, self.now)
        assert ping_id is not None
        self.core.pong_received(self.generation, ping_id, lease)

    def wait(self, seconds: float, *, renewing: bool = True) -> None:
        self.now += seconds
        self.wall += timedelta(seconds=seconds)
        if renewing:
            self.renew()

    def sent(self) -> Flight:
        return self.core.rpc_sent(self.now, self.wall.timestamp())

    def answered(
        self,
        flight: Flight,
        name: str = "a",
        *,
        token: str | None = None,
        user_id: str = "ana",
        ip_address: str | None = None,
        passive: bool = False,
        **fields: Any,
    ) -> bool:
        """Answer a sent call with a live session."""
        fields = {"last_active_time": self.wall, **fields}
        encoded = session_message(f"s-{name}", user_id=user_id, **fields).SerializeToString()
        kept = self.core.answer_received(
            flight,
            key_of(token or f"t-{name}"),
            decoded(encoded),
            encoded,
            now=self.now,
            ip_address=ip_address,
            passive=passive,
        )
        self.core.rpc_done(flight)
        return kept

    def keep(self, name: str = "a", **answer: Any) -> bool:
        return self.answered(self.sent(), name, **answer)

    def reject(self, name: str, reason: RejectionReason) -> None:
        flight = self.sent()
        self.core.rejection_received(key_of(f"t-{name}"), Rejection(reason))
        self.core.rpc_done(flight)

    def look(self, name: str = "a", **question: Any) -> Session | Rejection | None:
        return self.core.lookup(self.now, f"t-{name}", **question)

    def hits(self, *names: str) -> set[str]:
        return {name for name in names if self.look(name, passive=True)}

    def evict(self, *names: str, users: tuple[str, ...] = (), everything: bool = False) -> None:
        self.core.evict_received([f"s-{name}" for name in names], users, everything)

    def after(self, **span: float) -> datetime:
        return self.wall + timedelta(**span)
