from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.rpc.caller import Caller, current_caller
from session_authority_server.rpc.error_table import TooManyRejectedTokens
from session_authority_server.rpc.rejected_tokens import RejectedTokens

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def sixty(clock: ManualClock) -> RejectedTokens:
    """A bucket that gets one a second."""
    return RejectedTokens(clock, 60)


@contextmanager
def calling(key_id: str) -> Iterator[None]:
    before = current_caller.set(Caller(key_id))
    try:
        yield
    finally:
        current_caller.reset(before)


def refused_for(rejected: RejectedTokens) -> timedelta:
    with pytest.raises(TooManyRejectedTokens) as caught:
        rejected.check()
    return caught.value.retry_after


def test_a_minutes_worth_may_come_at_once_and_not_one_more(sixty: RejectedTokens) -> None:
    for _ in range(60):
        sixty.check()
        sixty.count()
    assert refused_for(sixty) == SECOND


def test_who_is_refused_may_return_when_told_to(sixty: RejectedTokens, clock: ManualClock) -> None:
    sixty.count(60)
    clock.advance(SECOND / 2)
    assert refused_for(sixty) == SECOND / 2
    clock.advance(SECOND / 2)
    sixty.check()
    sixty.count()
    assert refused_for(sixty) == SECOND


def test_a_batch_counts_each_of_its_rejections_and_what_it_owes_is_paid_in_a_minute(
    sixty: RejectedTokens, clock: ManualClock
) -> None:
    sixty.count(1_000)
    assert refused_for(sixty) == timedelta(seconds=61)
    clock.advance(timedelta(seconds=61))
    sixty.check()


def test_a_bucket_holds_no_more_than_a_minutes_worth(
    sixty: RejectedTokens, clock: ManualClock
) -> None:
    sixty.count()
    clock.advance(timedelta(days=1))
    sixty.count(60)
    assert refused_for(sixty) == SECOND


def test_one_bad_caller_shuts_nobody_else_out(sixty: RejectedTokens) -> None:
    with calling("bad"):
        sixty.count(60)
        assert refused_for(sixty) == SECOND
    with calling("good"):
        sixty.check()
        sixty.count(59)
        sixty.check()
    with calling("bad"):
        assert refused_for(sixty) == SECOND


def test_without_a_bound_nobody_is_refused(clock: ManualClock) -> None:
    unbounded = RejectedTokens(clock, 0)
    unbounded.count(1_000_000_000)
    unbounded.check()


def test_a_good_caller_costs_not_even_a_look_at_the_clock() -> None:
    class NoClock:
        def now(self) -> datetime:
            pytest.fail("looked at")

    rejected = RejectedTokens(NoClock(), 60)
    rejected.check()
    rejected.count(0)
