"""The near cache's protocol keeps its promise in every schedule, and each of its rules is needed for that."""

import pytest

from tests.model.near_cache import Bounds, Change, Protocol, Rule, explore

ONE_QUESTION = Bounds(validations=1)
# The change and the questions that show what a rule is there for; one question about a session, unless given.
SHOWN_BY = {
    Rule.USER_IN_FLIGHT: (Change.USER, ONE_QUESTION),
    Rule.ALL_IN_FLIGHT: (Change.EVERYBODY, ONE_QUESTION),
    Rule.WHOLE_TOKEN: (Change.TOKEN, ONE_QUESTION),
    Rule.REVALIDATION_OBEYS: (Change.SESSION, Bounds(validations=2)),
}


@pytest.mark.parametrize("change", Change)
def test_no_schedule_breaks_the_promise(change: Change) -> None:
    found = explore(Protocol(change, bounds=ONE_QUESTION))

    assert found.promise is None, found.schedule
    assert found.states > 100_000


@pytest.mark.parametrize("rule", Rule)
def test_without_any_of_its_rules_some_schedule_does(rule: Rule) -> None:
    change, bounds = SHOWN_BY.get(rule, (Change.SESSION, ONE_QUESTION))

    found = explore(Protocol(change, without=rule, bounds=bounds))

    assert found.promise is not None
    assert found.schedule
