"""Subscriptions to the ends of sessions, with a manual clock."""

from typing import Any

import pytest

from session_authority import (
    EndSubscription,
    RejectionReason,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.near_cache.activity import CLOCK_SKEW_SECONDS
from session_authority.near_cache.endings import STEP_SECONDS, Step
from tests.unit.client.near_cache.play import LEASE, Play


class Keeper(Play):
    """The core, and the steps of a keeper."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0
        self.errors: list[SessionAuthorityError] = []
        self.endings = self.core.new_endings(lambda: self.now, self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def watch(self, name: str = "a", **answer: Any) -> EndSubscription:
        self.keep(name, **answer)
        subscription = self.core.subscribe(self.endings, self.now, f"t-{name}")
        if not self.endings.is_confirmed(subscription):
            self.keep(name, **answer)
        self.endings.arm(subscription, self.errors.append)
        self.step()
        return subscription

    def step(self) -> Step:
        step = self.endings.step()
        for callback, error in step.ended:
            callback(error)
        return step

    def pass_time(self, seconds: float, *, renewing: bool = True) -> list[float]:
        """Take every step on time, and answer no question. Return when the authority was asked."""
        asked = []
        begin, until = self.now, self.now + seconds
        while self.now < until:
            step = self.step()
            asked += [self.now - begin] * len(step.asked)
            wait = min(step.wait_seconds or seconds, until - self.now, 1.0)
            self.wait(wait, renewing=renewing)
        return asked


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_a_renewed_lease_needs_no_question(keeper: Keeper) -> None:
    keeper.watch()
    assert keeper.pass_time(600) == []


def test_a_late_renewal_is_followed_by_questions_and_a_lapsed_lease_by_the_callback(
    keeper: Keeper,
) -> None:
    subscription = keeper.watch()
    assert keeper.pass_time(LEASE, renewing=False) == pytest.approx([LEASE * 3 / 4])
    assert isinstance(subscription.ended, Unavailable)
    keeper.step()
    assert [type(error) for error in keeper.errors] == [Unavailable]


def test_a_change_is_asked_about_at_once_and_again_until_it_is_answered(keeper: Keeper) -> None:
    subscription = keeper.watch()
    wakes = keeper.wakes
    keeper.evict("a")
    assert keeper.wakes > wakes
    assert keeper.pass_time(1.1) == pytest.approx([0, 0.5, 1.0])
    assert subscription.ended is None
    keeper.keep()
    assert keeper.pass_time(10) == []


def test_a_session_is_asked_about_when_it_may_be_expired(keeper: Keeper) -> None:
    keeper.watch(expire_time=keeper.after(seconds=60))
    assert keeper.pass_time(60 - CLOCK_SKEW_SECONDS) == []
    assert keeper.pass_time(1.5)
    keeper.reject("a", RejectionReason.EXPIRED)
    keeper.step()
    [error] = keeper.errors
    assert isinstance(error, SessionNotLive)
    assert error.rejection is not None
    assert error.rejection.reason is RejectionReason.EXPIRED


def test_use_elsewhere_extends_an_idle_timeout(keeper: Keeper) -> None:
    keeper.watch(idle_expire_time=keeper.after(seconds=60))
    keeper.pass_time(56)
    keeper.keep(idle_expire_time=keeper.after(seconds=60))  # the answer to the question
    assert keeper.pass_time(60 - CLOCK_SKEW_SECONDS - 1) == []
    assert keeper.errors == []


def test_in_the_last_seconds_before_its_expiry_a_session_is_confirmed_by_calls(
    keeper: Keeper,
) -> None:
    expiry = keeper.after(seconds=4)
    subscription = keeper.watch(expire_time=expiry)
    for _ in range(3):
        assert len(keeper.pass_time(1.1)) == 1
        assert not keeper.keep(expire_time=expiry)  # live, but no longer cached
    assert subscription.ended is None


def test_an_answer_that_a_change_overtook_confirms_for_a_lease_but_is_asked_again(
    keeper: Keeper,
) -> None:
    subscription = keeper.core.subscribe(keeper.endings, keeper.now, "t-a")
    flight = keeper.sent()
    keeper.evict("a")
    keeper.answered(flight)
    keeper.endings.arm(subscription, keeper.errors.append)
    assert keeper.step().asked == ["t-a"]
    keeper.pass_time(LEASE)
    keeper.step()
    assert [type(error) for error in keeper.errors] == [Unavailable]


def test_an_answer_that_came_too_late_is_refused(keeper: Keeper) -> None:
    subscription = keeper.core.subscribe(keeper.endings, keeper.now, "t-a")
    flight = keeper.sent()
    keeper.evict("a")
    keeper.wait(LEASE)
    keeper.answered(flight)
    with pytest.raises(Unavailable):
        keeper.endings.arm(subscription, keeper.errors.append)


def test_a_lost_stream_leaves_the_rest_of_the_lease_to_ask(keeper: Keeper) -> None:
    keeper.watch()
    keeper.wait(0.5)
    keeper.core.stream_lost(keeper.generation)
    assert keeper.pass_time(LEASE - 0.1, renewing=False)
    assert keeper.errors == []
    keeper.connect()
    keeper.keep()
    assert keeper.pass_time(10) == []


def test_a_process_that_stood_still_asks_before_it_gives_a_session_up(keeper: Keeper) -> None:
    subscription = keeper.watch()
    keeper.wait(3600, renewing=False)
    assert isinstance(subscription.ended, Unavailable)  # nothing may use the session meanwhile
    assert keeper.step().asked == ["t-a"]
    assert keeper.errors == []
    keeper.renew()
    keeper.keep()
    assert subscription.ended is None
    assert keeper.pass_time(10) == []


def test_a_process_that_stands_still_again_and_again_gives_up(keeper: Keeper) -> None:
    keeper.watch()
    for _ in range(4):
        keeper.wait(1, renewing=False)
        keeper.step()
    assert [type(error) for error in keeper.errors] == [Unavailable]


def test_a_subscription_that_is_cancelled_before_the_next_step_calls_nothing(
    keeper: Keeper,
) -> None:
    subscription = keeper.watch()
    keeper.reject("a", RejectionReason.REVOKED)
    assert isinstance(subscription.ended, SessionNotLive)
    subscription.cancel()
    assert keeper.step().ended == []


def test_without_subscriptions_nothing_is_to_be_done(keeper: Keeper) -> None:
    keeper.watch().cancel()
    assert keeper.step().wait_seconds is None


def test_steps_are_never_closer_than_their_minimum(keeper: Keeper) -> None:
    keeper.watch()
    keeper.evict("a")
    for _ in range(100):
        wait = keeper.step().wait_seconds
        assert wait is not None
        assert wait >= STEP_SECONDS
        keeper.wait(0.001)
