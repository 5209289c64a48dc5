from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.endings_world import EndingsWorld
from tests.support.soak import soaked

pytestmark = pytest.mark.soak


@settings(max_examples=soaked(long=2_000, short=20), deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 300))
def test_subscriptions_end_in_time_and_only_with_their_sessions(chance: Random, steps: int) -> None:
    world = EndingsWorld(chance)
    for _ in range(steps):
        world.step()


def test_subscriptions_keep_their_promises_in_a_long_run() -> None:
    world = EndingsWorld(Random(2030))
    for _ in range(soaked(long=1_000_000, short=20_000)):
        world.step()
    assert world.counts["called: not live"] > 100
    assert world.counts["called: unavailable"] > 100
    assert world.counts["ended before on_end returned"] > 5
    assert world.counts["usable within the lease of an ending"] > 1_000


class CalmWorld(EndingsWorld):
    """A world in which every call is answered and every stream is replaced soon."""

    def tick(self, number: int) -> None:
        """Let 0.05 seconds pass, with some random changes."""
        self.now += 0.05
        if number % 2:
            self.subscribe()
        self._change()
        while self.pings or self.wire or self.unpublished or self.is_woken or self.calls:
            self._go_on()
        if self.step_at is not None and self.now >= self.step_at:
            self._keep_watch()
        if number % 20 == 0 and self.open:
            self.ping()
        self._check_watches()

    def _change(self) -> None:
        match self.chance.randrange(60):
            case 0:
                self.end_session()
            case 1:
                self.supersede()
            case 2:
                self.sign_in()
            case 3 if self.open:
                assert self.core.stream_lost(self.generation)
                self._lose()
                self.open, self.lost = False, True
                self.wire.clear()
            case _ if not self.open and self.chance.random() < 0.2:
                self.open, self.lost = True, False
                self.generation = self.core.stream_opened()
                self.ping()

    def _go_on(self) -> None:
        self.take_ping()
        self.publish()
        self.deliver()
        if self.is_woken:
            self._keep_watch()
        self.evaluate()
        self.answer()


def test_no_subscription_becomes_unavailable_while_the_authority_answers() -> None:
    world = CalmWorld(Random(5), lost_share=0)
    for number in range(soaked(long=200_000, short=6_000)):
        world.tick(number)
    assert world.counts["called: not live"] > 20
    assert world.counts["called: unavailable"] == 0
