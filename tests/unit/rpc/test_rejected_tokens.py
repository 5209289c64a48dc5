from datetime import UTC, datetime, timedelta

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.rpc.authentication import ANONYMOUS, Caller, RejectedTokens

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def sixty(clock: ManualClock) -> RejectedTokens:
    """A bucket that gains one call per second."""
    return RejectedTokens(clock, 60)


def empty(rejected: RejectedTokens, caller: Caller = ANONYMOUS) -> None:
    for _ in range(60):
        assert rejected.count(caller) is None


def wait_of(rejected: RejectedTokens, caller: Caller = ANONYMOUS) -> timedelta | None:
    refusal = rejected.count(caller)
    return None if refusal is None else refusal.retry_after


def test_a_bucket_holds_the_calls_of_one_minute(sixty: RejectedTokens) -> None:
    empty(sixty)
    assert wait_of(sixty) == SECOND


def test_a_refused_call_costs_nothing(sixty: RejectedTokens, clock: ManualClock) -> None:
    empty(sixty)
    for _ in range(100):
        assert wait_of(sixty) == SECOND
    clock.advance(SECOND)
    assert wait_of(sixty) is None


def test_a_refusal_has_the_time_until_the_next_call_is_answered(
    sixty: RejectedTokens, clock: ManualClock
) -> None:
    empty(sixty)
    clock.advance(SECOND / 2)
    assert wait_of(sixty) == SECOND / 2
    clock.advance(SECOND / 2)
    assert wait_of(sixty) is None
    assert wait_of(sixty) == SECOND


def test_a_bucket_never_holds_more_than_one_minute(
    sixty: RejectedTokens, clock: ManualClock
) -> None:
    sixty.count(ANONYMOUS)
    clock.advance(timedelta(days=1))
    empty(sixty)
    assert wait_of(sixty) == SECOND


def test_each_api_key_has_its_own_bucket(sixty: RejectedTokens) -> None:
    empty(sixty, Caller("bad"))
    assert wait_of(sixty, Caller("bad")) == SECOND
    assert wait_of(sixty, Caller("good")) is None


def test_zero_means_no_limit(clock: ManualClock) -> None:
    unlimited = RejectedTokens(clock, 0)
    for _ in range(1_000):
        assert unlimited.count(ANONYMOUS) is None
