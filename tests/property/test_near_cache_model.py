"""The near cache's protocol keeps its promise in every schedule, and needs each of its rules."""

import pytest
from tools.near_cache_model.exploring import ONE_QUESTION, explore, without
from tools.near_cache_model.protocol import Bounds, Change, Protocol, Rule

from tests.support.soak import soaked

BOUNDS = soaked(long=ONE_QUESTION, short=Bounds(pings=1, streams=1, validations=1, mishaps=0))
STATES = soaked(long=100_000, short=10_000)
# Even the smallest bounds that break these rules have several hundred thousand states.
LARGE = (
    Rule.CLOCK_COUNTS_SUSPEND,
    Rule.LOST_CHANNEL_CLOSES,
    Rule.LOST_STREAM_CLEARS,
    Rule.SAME_GENERATION,
)
RULES = soaked(long=list(Rule), short=[rule for rule in Rule if rule not in LARGE])


@pytest.mark.soak
@pytest.mark.parametrize("change", Change)
def test_no_schedule_breaks_the_promise(change: Change) -> None:
    found = explore(Protocol(change, bounds=BOUNDS))

    assert found.promise is None, found.schedule
    assert found.states > STATES


@pytest.mark.soak
@pytest.mark.parametrize("rule", RULES)
def test_without_each_rule_some_schedule_breaks_the_promise(rule: Rule) -> None:
    found = explore(without(rule))

    assert found.promise is not None
    assert found.schedule
