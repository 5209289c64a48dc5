"""The near cache's protocol keeps its promise in every schedule, and each of its rules is needed for that."""

import pytest

from tests.model.near_cache import ONE_QUESTION, Change, Protocol, Rule, explore, without


@pytest.mark.parametrize("change", Change)
def test_no_schedule_breaks_the_promise(change: Change) -> None:
    found = explore(Protocol(change, bounds=ONE_QUESTION))

    assert found.promise is None, found.schedule
    assert found.states > 100_000


@pytest.mark.parametrize("rule", Rule)
def test_without_any_of_its_rules_some_schedule_does(rule: Rule) -> None:
    found = explore(without(rule))

    assert found.promise is not None
    assert found.schedule
