"""The simulation of the near cache, with subscriptions to the ends of its sessions.

The promises:

- A subscription has ended once a lease has passed after the end of its session, whatever the network does.
- It ends with `SessionNotLive` only if its session has ended.
- It ends with `Unavailable` only if nothing confirmed its session within a lease.

    .venv/bin/python -m tests.property.endings_world [operations] [seed]
"""

import random
import sys
from dataclasses import dataclass, field
from functools import partial

from session_authority import EndSubscription, SessionAuthorityError, SessionNotLive, Unavailable
from session_authority.near_cache.endings import LATE_SHARE, STEP_SECONDS, Endings
from tests.property.near_cache_records import Call, Login
from tests.property.near_cache_world import LEASE, WALL, World

SUBSCRIPTIONS = 12


@dataclass(eq=False)
class Watch:
    """A subscription, and the facts that its end is compared with.

    Attributes:
        confirmed: When the latest call was sent that was answered with a live session.
        error: The error that the callback got.
        excused_until: The process stood still, so the callback may be late until then.
    """

    login: Login
    subscription: EndSubscription
    confirmed: float
    is_armed: bool = False
    error: SessionAuthorityError | None = None
    excused_until: float = -1.0


@dataclass
class EndingsWorld(World):
    """The near cache's world, and a keeper that takes each step on time."""

    watches: list[Watch] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_woken = False
        self.step_at: float | None = None
        self.arming: dict[Call, Watch] = {}
        self.core._lease.seconds = LEASE  # before the first pong, the client uses a shorter one
        self.endings: Endings = self.core.new_endings(lambda: self.now, self._wake)

    def step(self) -> None:
        more = self.chance.random()
        if more < 0.1:
            self.subscribe()
        elif more < 0.105:
            self.cancel()
        elif more < 0.4:  # the keeper's calls are answered too
            self.evaluate()
            self.answer()
        else:
            super().step()
        while self.is_woken:
            self._keep_watch()
        self._check_watches()

    def wait(self) -> None:
        before = self.now
        super().wait()
        after = self.now
        if after - before > 10:  # suspended: the keeper could not run
            for watch in self.watches:
                watch.excused_until = after + LEASE / LATE_SHARE
            self._keep_watch()
            return
        while self.step_at is not None and self.step_at <= after:
            self.now = max(self.step_at, before)
            self._keep_watch()
        self.now = after

    def subscribe(self) -> None:
        if len(self.watches) >= SUBSCRIPTIONS:
            return
        login = self.chance.choice(self.logins)
        subscription = self.core.subscribe(self.endings, self.now, login.token)
        kept = self.kept.get(login.token)
        if kept is not None and self.now < self.until:
            kept.looked = self.now
        watch = Watch(login, subscription, -1.0)
        if self.endings.is_confirmed(subscription):
            self._arm(watch)
        else:
            self.arming[self._ask(login)] = watch

    def cancel(self) -> None:
        if self.watches:
            self.counts["cancel"] += 1
            watch = self.watches.pop(self.chance.randrange(len(self.watches)))
            watch.subscription.cancel()
            watch.subscription.cancel()

    def answered(self, call: Call, is_lost: bool) -> None:
        if call.accepted and not is_lost:
            for watch in [*self.watches, *self.arming.values()]:
                if watch.login is call.login:
                    watch.confirmed = max(watch.confirmed, call.sent)
        if call not in self.arming:
            return
        watch = self.arming.pop(call)
        if call.accepted and not is_lost:
            self._arm(watch)
        else:
            watch.subscription.cancel()

    def _arm(self, watch: Watch) -> None:
        try:
            self.endings.arm(watch.subscription, partial(self._called, watch))
        except SessionAuthorityError:
            self.counts["ended before on_end returned"] += 1
            watch.subscription.cancel()
        else:
            self.watches.append(watch)

    def _called(self, watch: Watch, error: SessionAuthorityError) -> None:
        assert watch in self.watches, "called after cancel, or twice"
        self.watches.remove(watch)
        assert watch.subscription.ended is error
        if isinstance(error, SessionNotLive):
            self.counts["called: not live"] += 1
            assert not watch.login.lives(self.now)
        else:
            self.counts["called: unavailable"] += 1
            assert isinstance(error, Unavailable)
            assert self.now >= watch.confirmed + LEASE - 1e-6

    def _wake(self) -> None:
        self.is_woken = True

    def _keep_watch(self) -> None:
        self.is_woken = False
        step = self.endings.step()
        for callback, error in step.ended:
            callback(error)
        for token in step.asked:
            watched = [*self.watches, *self.arming.values()]
            self._ask(next(each.login for each in watched if each.login.token == token))
        self.step_at = None if step.wait_seconds is None else self.now + step.wait_seconds

    def _ask(self, login: Login) -> Call:
        call = Call(
            login,
            self.core.rpc_sent(self.now, WALL + self.now),
            self.now,
            passive=True,
            ip_address=None,
            generation=self.generation if self.established else None,
        )
        self.calls.append(call)
        return call

    def _check_watches(self) -> None:
        for watch in self.watches:
            ended = min(watch.login.ended or watch.login.expires, watch.login.expires)
            is_usable = watch.subscription.ended is None
            self.counts["usable within the lease of an ending"] += is_usable and self.now >= ended
            assert not is_usable or self.now < ended + LEASE
            silent_until = max(ended + LEASE, watch.excused_until) + STEP_SECONDS
            assert self.now <= silent_until, "the callback was not called"


def main() -> None:
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    world = EndingsWorld(random.Random(seed))
    for _ in range(operations):
        world.step()
    print(  # noqa: T201 - the program's output
        f"{operations} operations, seed {seed}: {dict(world.counts.most_common())}"
    )


if __name__ == "__main__":
    main()
