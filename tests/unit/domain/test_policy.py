from datetime import timedelta

import pytest

from session_authority_server.domain.policy import Policy
from tests.support.engines import START

MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)


def test_the_defaults_are_as_documented() -> None:
    policy = Policy()
    assert policy.absolute_lifetime == timedelta(days=90)
    assert policy.idle_timeout is None
    assert policy.last_active_resolution == timedelta(seconds=60)
    assert policy.session_limit == 100
    assert policy.history_retention == timedelta(days=30)
    assert policy.retry_window == timedelta(minutes=10)


@pytest.mark.parametrize(
    "rules",
    [
        {"absolute_lifetime": SECOND},
        {"idle_timeout": 60 * SECOND},
        {"idle_timeout": None},
        {"session_limit": 1},
        {"session_limit": None},
        {"last_active_resolution": timedelta(0)},
        {"history_retention": timedelta(0)},
    ],
)
def test_a_rule_at_its_limit_is_accepted(rules: dict[str, object]) -> None:
    Policy(**rules)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rules",
    [
        {"absolute_lifetime": SECOND - MILLISECOND},
        {"idle_timeout": 60 * SECOND - MILLISECOND},
        {"session_limit": 0},
        {"last_active_resolution": -MILLISECOND},
        {"history_retention": -MILLISECOND},
    ],
)
def test_a_rule_beyond_its_limit_is_refused_by_name(rules: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(rules))):
        Policy(**rules)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("idle_minutes", "expected_seconds"), [(None, 60), (1, 6), (10, 60), (11, 60), (600, 60)]
)
def test_activity_is_recorded_at_least_ten_times_in_an_idle_timeout(
    idle_minutes: int | None, expected_seconds: int
) -> None:
    idle = None if idle_minutes is None else timedelta(minutes=idle_minutes)
    assert Policy().resolution_for(idle) == timedelta(seconds=expected_seconds)


def test_an_ending_is_effective_after_the_lease_and_a_margin() -> None:
    policy = Policy(cache_lease=2 * SECOND, effective_margin=100 * MILLISECOND)
    assert policy.effective_time(START) == START + 2.1 * SECOND
