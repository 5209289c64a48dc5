import contextlib
import math
import random
from collections.abc import Callable

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    InternalError,
    SessionClient,
    Unavailable,
    _retries,
)
from session_authority._throttle import Begun, Throttle
from tests.unit.client.conftest import Twin
from tests.unit.client.fake_authority import TOKEN, FakeAuthority, Fault, accepted, created, fault

VALIDATE = "/session_authority.v1.SessionService/ValidateSession"
SIGN_OUT = "/session_authority.v1.SessionService/SignOut"
ROUND_TRIP_SECONDS = 0.02


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def throttle(time: Time) -> Throttle:
    return Throttle(time, random.Random(7).random)


def begun(throttle: Throttle, count: int, method: str = VALIDATE) -> list[Begun]:
    """Begin as many calls as are let through, of so many."""
    calls = []
    for _ in range(count):
        with contextlib.suppress(Unavailable):
            calls.append(throttle.begin(method))
    return calls


def end_all(throttle: Throttle, calls: list[Begun], answered: Callable[[int], bool | None]) -> None:
    for number, call in enumerate(calls):
        throttle.end(call, answered=answered(number))


def test_a_burst_of_any_size_is_let_through_while_nothing_is_refused(
    throttle: Throttle, time: Time
) -> None:
    for _ in range(3):
        calls = begun(throttle, 10_000)
        assert len(calls) == 10_000
        time.now += 0.1
        end_all(throttle, calls, lambda _: True)


def test_a_slow_authority_that_refuses_nothing_is_no_reason_to_refuse(
    throttle: Throttle, time: Time
) -> None:
    for _ in range(10):
        calls = begun(throttle, 60)
        assert len(calls) == 60
        time.now += 3
        end_all(throttle, calls, lambda _: True)


def test_no_more_calls_are_under_way_than_the_authority_takes(
    throttle: Throttle, time: Time
) -> None:
    takes, most_refused = 40, 0
    for round_trip in range(200):
        calls = begun(throttle, 400)
        time.now += ROUND_TRIP_SECONDS
        end_all(throttle, calls, lambda number: number < takes)
        if round_trip > 100:
            assert len(calls) >= takes * 0.6
            most_refused = max(most_refused, len(calls) - takes)
    assert most_refused <= 2


def test_who_comes_back_to_a_normal_load_has_none_of_it_refused(
    throttle: Throttle, time: Time
) -> None:
    for _ in range(100):
        calls = begun(throttle, 400)
        time.now += ROUND_TRIP_SECONDS
        end_all(throttle, calls, lambda number: number < 40)
    for _ in range(100):
        calls = begun(throttle, 20)
        assert len(calls) == 20
        time.now += ROUND_TRIP_SECONDS
        end_all(throttle, calls, lambda _: True)
    assert len(begun(throttle, 400)) == 400  # and in two seconds it is all forgotten


def test_all_calls_that_were_refused_together_narrow_the_window_once(
    throttle: Throttle, time: Time
) -> None:
    calls = begun(throttle, 100)
    time.now += ROUND_TRIP_SECONDS
    end_all(throttle, calls, lambda number: number >= 60)
    assert 80 <= len(begun(throttle, 400)) <= 82  # each answer after it widens it a little


def test_calls_that_wait_for_each_other_are_too_many_even_if_none_is_refused(
    throttle: Throttle, time: Time
) -> None:
    takes_per_second = 1_000
    waiting: list[Begun] = []
    longest = 0.0
    for tick in range(1_000):  # 10 s at twice what is answered
        waiting += begun(throttle, 20)
        time.now += 0.01
        for call in waiting[: takes_per_second // 100]:
            throttle.end(call, answered=True)
            if tick > 500:
                longest = max(longest, time.now - call.at)
        del waiting[: takes_per_second // 100]
    assert longest < 0.4


def test_of_a_client_with_one_call_at_a_time_most_are_not_made_while_most_are_refused(
    time: Time,
) -> None:
    throttle = Throttle(time, random.Random(7).random)
    made = answered = 0
    carried = 0.0
    for _ in range(20_000):  # 1,000 a second, of which 50 would be answered
        carried = min(carried + 0.05, 5)
        for call in begun(throttle, 1):
            made += 1
            answers = carried >= 1
            carried -= answers
            answered += answers
            throttle.end(call, answered=answers)
        time.now += 0.001
    assert made < 20_000 * 0.15
    assert answered > 1_000 * 0.8
    for _ in range(600):  # the load goes on, and the authority carries it again
        for call in begun(throttle, 1):
            throttle.end(call, answered=True)
        time.now += 0.001
    assert len(begun(throttle, 2)) == 2


def test_signing_out_is_never_refused_at_home(throttle: Throttle, time: Time) -> None:
    calls = begun(throttle, 100)
    time.now += ROUND_TRIP_SECONDS
    end_all(throttle, calls, lambda _: False)
    assert len(begun(throttle, 100)) < 100
    assert not begun(throttle, 10)
    assert len(begun(throttle, 10, SIGN_OUT)) == 10


def test_an_authority_that_cannot_be_reached_is_asked_again_each_time(
    throttle: Throttle, time: Time
) -> None:
    for _ in range(100):
        calls = begun(throttle, 100)
        assert len(calls) == 100
        time.now += ROUND_TRIP_SECONDS
        end_all(throttle, calls, lambda _: None)


BUSY = fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")


@pytest.mark.parametrize(
    "refusal",
    [
        BUSY,
        Fault(grpc.StatusCode.CANCELLED, "CANCELLED"),
        Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many pending requests"),
    ],
)
async def test_a_client_that_is_refused_refuses_some_itself_and_signs_in_all_the_same(
    monkeypatch: pytest.MonkeyPatch, twin: Twin, authority: FakeAuthority, refusal: Fault
) -> None:
    monkeypatch.setattr(_retries, "MAX_PAUSE_SECONDS", 0.01)
    authority.answers("ValidateSession", refusal)
    authority.answers("CreateSession", created())
    caught = [await _refusal(twin) for _ in range(300)]
    at_home = [error for error in caught if "not asked" in str(error)]
    assert at_home
    assert {error.reason for error in at_home} == {"SERVER_OVERLOADED"}
    assert all(error.retry_after is not None for error in at_home)
    # The client repeats what is refused too, but stops before that multiplies the load.
    assert len(authority.calls) < 300
    assert await twin.create("ana")


@pytest.mark.parametrize(
    "failure",
    [
        fault(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
        fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"),
    ],
)
async def test_a_client_that_fails_for_another_reason_than_overload_asks_again(
    twin: Twin, authority: FakeAuthority, failure: Fault
) -> None:
    authority.answers("ValidateSession", failure)
    for _ in range(10):
        assert "not asked" not in str(await _refusal(twin))


async def test_every_call_that_began_ends(twin: Twin, authority: FakeAuthority) -> None:
    authority.answers("ValidateSession", accepted(), Fault(grpc.StatusCode.INTERNAL), accepted())
    assert await twin.validate(TOKEN)
    with pytest.raises(InternalError):
        await twin.validate(TOKEN)
    assert await twin.validate(TOKEN)
    client: SessionClient | AsyncSessionClient = twin.client
    [connection] = client._connections.values()
    assert connection.throttle._under_way == 0
    assert connection.throttle._window == math.inf


async def _refusal(twin: Twin) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await twin.validate(TOKEN)
    return caught.value
