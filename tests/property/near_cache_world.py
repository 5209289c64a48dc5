"""A simulation of the near cache in virtual time: an authority, a stream that lags and breaks, and a naive cache.

Every operation runs on the real core and on the naive cache, and their answers must agree. The promise: once a lease
has passed after the commit of an ending, the session has no hit, whatever the network does.

    .venv/bin/python -m tests.property.near_cache_world [operations] [seed]
"""

import random
import sys
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from session_authority import NearCache, Rejection, RejectionReason, Session
from session_authority.near_cache.activity import CLOCK_SKEW_SECONDS
from session_authority.near_cache.core import Due, NearCacheCore
from session_authority.near_cache.entries import USE_NOTED_SECONDS, Entries, key_of
from session_authority.near_cache.operations import decoded
from session_authority.v1 import session_pb2
from tests.property.near_cache_records import Call, Kept, Login

LEASE = 2.0
MAX_SESSIONS = 12
HOT_SESSIONS = 4
TOKENS = 24
USERS = 5
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
WALL = BEGIN.timestamp()


Event = tuple[str, Any]


@dataclass
class World:
    """Both caches, and the authority and network around them."""

    chance: random.Random
    now: float = 5000.0
    core: NearCacheCore = field(init=False)
    counts: "Counter[str]" = field(default_factory=Counter)
    lost_share: float = 0.1

    def __post_init__(self) -> None:
        self.due: list[Due] = []
        self.core = NearCacheCore(NearCache(max_sessions=MAX_SESSIONS), decoded, self.due.append)
        self.core._entries = Entries(MAX_SESSIONS, decoded, HOT_SESSIONS)
        self.core._hot = self.core._entries.hot
        self.serial = 0
        self.logins = [self._login() for _ in range(TOKENS)]
        self.calls: list[Call] = []
        # The stream, as the network and the authority see it.
        self.open = False
        self.lost = False
        self.generation = 0
        self.pings: deque[tuple[int, float]] = deque()
        self.unpublished: deque[Event] = deque()
        self.wire: deque[Event] = deque()
        # The naive cache.
        self.kept: dict[str, Kept] = {}
        self.until = -1.0
        self.established = False

    # Events.

    def step(self) -> None:
        """Run one random event."""
        names = (
            ["validate"] * 16 + ["send"] * 6 + ["evaluate"] * 6 + ["answer"] * 6 + ["wait"] * 4
            + ["ping"] * 4 + ["take_ping"] * 5 + ["publish"] * 2 + ["deliver"] * 12
            + ["end_session", "end_user", "end_all", "supersede"] + ["sign_in"] * 8
            + ["own_sign_out", "own_revoke", "connect"]
        )  # fmt: skip
        name = self.chance.choice(names)
        if name in {"end_all", "end_user"} and self.chance.random() < 0.9:
            return
        self.counts[name] += 1
        getattr(self, name)()

    def wait(self) -> None:
        self.now += self.chance.choice([0.001, 0.01, 0.03, 0.1, 0.1, 0.3, 1.0, 1.9])
        if self.chance.random() < 0.01:
            self.now += self.chance.choice([30.0, 61.0, 3600.0])  # suspended

    def sign_in(self) -> None:
        dead = [place for place, login in enumerate(self.logins) if not login.lives(self.now)]
        if dead:
            self.logins[self.chance.choice(dead)] = self._login()

    def _login(self) -> Login:
        self.serial += 1
        return Login(
            f"t-{self.serial}",
            f"s-{self.serial}",
            f"u-{self.serial % USERS}",
            self.now + self.chance.choice([20.0, 500.0, 1e6]),
        )

    def validate(self) -> None:
        login = self.chance.choice(self.logins)
        passive = self.chance.random() < 0.2
        ip_address = self.chance.choice([None, "192.0.2.1", "192.0.2.2"])
        user = self.chance.choice([None, None, None, login.user, "unknown"])
        found = self.core.lookup(self.now, login.token, ip_address, user, passive)
        if isinstance(found, Session):
            assert found.session_id == login.session_id
            self._check_promise(login)
        assert self._outcome(found) == self._naive(login, passive, ip_address, user)

    def _check_promise(self, login: Login) -> None:
        self.counts["hit"] += 1
        assert self.now < login.expires, "expired"
        if login.ended is not None:
            self.counts["hit within the lease of an ending"] += 1
            assert self.now < login.ended + LEASE, f"{self.now - login.ended} s after the ending"

    @staticmethod
    def _outcome(found: Session | Rejection | None) -> str:
        return "miss" if found is None else "hit" if found else "mismatch"

    def _naive(self, login: Login, passive: bool, ip_address: str | None, user: str | None) -> str:
        kept = self.kept.get(login.token)
        expected: list[Due] = []
        if kept is not None and self.now < self.until:
            kept.looked = self.now
        if kept is None or self.now >= self.until or self.now >= kept.dead:
            outcome = "miss"
        else:
            kept.ip_address = ip_address or kept.ip_address
            if user not in (None, login.user):
                outcome = "mismatch"
            else:
                outcome = "hit"
                kept.used = self.now
                if not passive and self.now >= kept.due:
                    kept.due = self.now + 6
                    expected = [Due(login.token, kept.ip_address)]
        assert self.due == expected
        self.due.clear()
        return outcome

    # Validations.

    def send(self) -> None:
        if len(self.calls) > 12:
            return
        login = self.chance.choice(self.logins)
        self.calls.append(
            Call(
                login,
                self.core.rpc_sent(self.now, WALL + self.now),
                self.now,
                passive=self.chance.random() < 0.2,
                ip_address=self.chance.choice([None, "192.0.2.3"]),
                generation=self.generation if self.established else None,
            )
        )

    def evaluate(self) -> None:
        asked = [call for call in self.calls if call.accepted is None]
        if asked:
            call = self.chance.choice(asked)
            call.accepted = call.login.lives(self.now)
            call.last_active = self.now - self.chance.choice([0.0, 30.0, 200.0])

    def answer(self) -> None:
        answered = [call for call in self.calls if call.accepted is not None]
        if not answered:
            return
        call = self.chance.choice(answered)
        self.calls.remove(call)
        login = call.login
        key = key_of(login.token)
        is_lost = self.chance.random() < self.lost_share
        if is_lost:
            pass  # in the network
        elif not call.accepted:
            self.core.rejection_received(key, Rejection(RejectionReason.REVOKED))
            self._forget(lambda each: each is login, {login.token})
        else:
            message = session_pb2.Session(
                session_id=login.session_id,
                user_id=login.user,
                state=session_pb2.SESSION_STATE_ACTIVE,
            )
            message.last_active_time.FromDatetime(BEGIN + timedelta(seconds=call.last_active))
            message.expire_time.FromDatetime(BEGIN + timedelta(seconds=login.expires))
            encoded = message.SerializeToString()
            kept = self.core.answer_received(
                call.flight,
                key,
                decoded(encoded),
                encoded,
                now=self.now,
                ip_address=call.ip_address,
                passive=call.passive,
            )
            assert kept == self._keep(call)
        self.core.rpc_done(call.flight)
        self.answered(call, is_lost)

    def answered(self, call: Call, is_lost: bool) -> None:
        """React to the end of a call."""

    def _keep(self, call: Call) -> bool:
        login = call.login
        dead = login.expires - CLOCK_SKEW_SECONDS
        if (
            call.generation != self.generation
            or not self.established
            or call.overtaken
            or self.now >= dead
        ):
            return False
        age = call.sent - call.last_active
        due = call.sent + (0 if call.passive else max(60 - age, 6) if 0 <= age < 60 else 60)
        earlier = self.kept.pop(login.token, None)
        ip_address = call.ip_address or (earlier.ip_address if earlier else None)
        self.kept[login.token] = Kept(login, dead, due, ip_address, self.now, self.now)
        if len(self.kept) > MAX_SESSIONS:
            there = set(self._order())
            [gone] = [token for token in self.kept if key_of(token) not in there]
            self._check_order(self.kept.pop(gone), self.kept.values())
        return True

    @staticmethod
    def _check_order(first: Kept, others: Iterable[Kept]) -> None:
        assert all(first.used - USE_NOTED_SECONDS <= other.looked for other in others)

    # Endings.

    def end_session(self) -> None:
        login = self.chance.choice(self.logins)
        self._end(lambda each: each is login, ("session", login.session_id))

    def end_user(self) -> None:
        user = self.chance.choice(self.logins).user
        self._end(lambda each: each.user == user, ("user", user))

    def end_all(self) -> None:
        self._end(lambda each: True, ("all", None))

    def supersede(self) -> None:
        place = self.chance.randrange(TOKENS)
        old = self.logins[place]
        self._end(lambda each: each is old, ("session", old.session_id))
        self.logins[place] = new = self._login()
        new.session_id, new.user = old.session_id, old.user

    def own_sign_out(self) -> None:
        login = self.chance.choice(self.logins)
        self._end(lambda each: each is login, ("session", login.session_id))
        self.core.token_ended(key_of(login.token))
        self._forget(lambda each: each is login, {login.token})
        self._check_gone(login)

    def own_revoke(self) -> None:
        login = self.chance.choice(self.logins)
        self._end(lambda each: each is login, ("session", login.session_id))
        self.core.evict_received([login.session_id], [], everything=False)
        self._forget(lambda each: each.session_id == login.session_id)
        self._check_gone(login)

    def _check_gone(self, login: Login) -> None:
        assert self.core.lookup(self.now, login.token) is None

    def _end(self, concerns: Any, event: Event) -> None:
        for login in self.logins:
            if concerns(login) and login.ended is None:
                login.ended = self.now
        if self.open:
            self.unpublished.append(event)

    # The stream.

    def connect(self) -> None:
        """Lose the stream, whether or not the client notices, and open another."""
        if self.open and self.chance.random() < 0.95:
            return  # usually the stream survives
        self.unpublished.clear()
        self.pings.clear()
        if self.open and self.chance.random() < 0.5:
            self.open = (
                False  # the client has not noticed the loss, and messages in flight still arrive
            )
            return
        self.open = False
        if self.chance.random() < 0.7:
            self.wire.clear()  # otherwise, the old stream's reader is slow to stop
        if self.chance.random() < 0.3:
            assert self.core.stream_lost(self.generation)
            self._lose()
            self.lost = True
            return
        self.open = True
        self.lost = False
        self._lose()
        self.generation = self.core.stream_opened()

    def _lose(self) -> None:
        self.kept.clear()
        self.until, self.established = -1.0, False

    def ping(self) -> None:
        if self.open:
            ping_id = self.core.ping_sent(self.generation, self.now)
            assert ping_id is not None
            self.pings.append((ping_id, self.now))

    def take_ping(self) -> None:
        """Answer a ping as the authority does: after the changes of every earlier commit."""
        if self.pings:
            ping = self.pings.popleft()
            self.wire.extend(self.unpublished)
            self.unpublished.clear()
            self.wire.append(("pong", (self.generation, *ping)))

    def publish(self) -> None:
        if self.unpublished:
            self.wire.append(self.unpublished.popleft())

    def deliver(self) -> None:
        if not self.wire:
            return
        kind, what = self.wire.popleft()
        match kind:
            case "session":
                self.core.evict_received([what], [], everything=False)
                self._forget(lambda login: login.session_id == what)
            case "user":
                self.core.evict_received([], [what], everything=False)
                self._forget(lambda login: login.user == what)
            case "all":
                self.core.evict_received([], [], everything=True)
                self._forget(lambda login: True)
            case "pong":
                generation, ping_id, sent = what
                self.core.pong_received(generation, ping_id, LEASE)
                if generation != self.generation or self.lost:
                    self.counts["pong of a stream that is over"] += 1
                else:
                    self.until, self.established = sent + LEASE, True

    def _forget(self, concerns: Any, tokens: frozenset[str] | set[str] = frozenset()) -> None:
        for token, kept in [*self.kept.items()]:
            if concerns(kept.login) or token in tokens:
                del self.kept[token]
        for call in self.calls:
            if concerns(call.login) or call.login.token in tokens:
                call.overtaken = True

    def _order(self) -> list[bytes]:
        """Return the entries of the real cache, least recently used first."""
        return [*self.core._entries._cold, *self.core._entries.hot]

    def check(self) -> None:
        """Check that both caches have the same entries."""
        entries = self.core._entries
        kept = {key_of(token): kept for token, kept in self.kept.items()}
        in_order = [kept.pop(key) for key in self._order()]
        assert not kept
        for at, each in enumerate(in_order):
            self._check_order(each, in_order[at + 1 :])
        assert len(entries) <= MAX_SESSIONS
        assert len(entries.hot) <= HOT_SESSIONS
        sessions = {kept.login.session_id for kept in self.kept.values()}
        users = {kept.login.user for kept in self.kept.values()}
        assert len(entries._by_session) == len(sessions)
        assert len(entries._by_user) == len(users)


def main() -> None:
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    world = World(random.Random(seed))
    for number in range(operations):
        world.step()
        if number % 50 == 0:
            world.check()
    print(  # noqa: T201 - the program's output
        f"{operations} operations, seed {seed}: {dict(world.counts.most_common())}"
    )


if __name__ == "__main__":
    main()
