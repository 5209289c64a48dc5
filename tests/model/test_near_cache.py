"""The near cache's protocol keeps its promise in every schedule, and each of its rules is needed for that."""

import pytest

from tests.model.near_cache import Bounds, Change, Protocol, Rule, explore

ONE_QUESTION = Bounds(validations=1)
# The least that shows what a rule is there for.
LEAST = Bounds(streams=1, validations=1, mishaps=0)
SHOWN_BY = {
    Rule.CLOCK_COUNTS_SUSPEND: (Change.SESSION, Bounds(streams=1, validations=1)),
    Rule.LOST_CHANNEL_CLOSES: (Change.SESSION, Bounds(streams=1, validations=1)),
    Rule.LOST_STREAM_CLEARS: (Change.SESSION, ONE_QUESTION),
    Rule.SAME_GENERATION: (Change.SESSION, ONE_QUESTION),
    Rule.USER_IN_FLIGHT: (Change.USER, LEAST),
    Rule.ALL_IN_FLIGHT: (Change.EVERYBODY, LEAST),
    Rule.WHOLE_TOKEN: (Change.TOKEN, LEAST),
    Rule.REVALIDATION_OBEYS: (Change.SESSION, Bounds(streams=1, validations=2, mishaps=0)),
}


@pytest.mark.parametrize("change", Change)
def test_no_schedule_breaks_the_promise(change: Change) -> None:
    found = explore(Protocol(change, bounds=ONE_QUESTION))

    assert found.promise is None, found.schedule
    assert found.states > 100_000


@pytest.mark.parametrize("rule", Rule)
def test_without_any_of_its_rules_some_schedule_does(rule: Rule) -> None:
    change, bounds = SHOWN_BY.get(rule, (Change.SESSION, LEAST))

    found = explore(Protocol(change, without=rule, bounds=bounds))

    assert found.promise is not None
    assert found.schedule
