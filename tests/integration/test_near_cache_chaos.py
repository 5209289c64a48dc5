"""A few rounds of `near_cache_chaos`, and tests of its checker."""

from pathlib import Path

import pytest

from tests.integration.near_cache_chaos import world
from tests.integration.near_cache_history import Ending, Validation, Verdict, judge
from tests.support.soak import soaked

ROUNDS = soaked(long=30, short=1)
ENDING = Ending("sign-out", session=0, effective=102.1, answered=50.0)


def verdict_on(*, wall_time: float, monotonic: float, hit: bool, accepted: bool = True) -> Verdict:
    return judge([ENDING], {"sync": [Validation(0, wall_time, monotonic, accepted, hit)]})


@pytest.mark.parametrize(
    ("wall_time", "monotonic", "hit"),
    [(102.2, 52.2, True), (102.2, 52.2, False), (100.1, 50.1, False)],
    ids=["from memory after effective_time", "by the authority", "by the authority, just after"],
)
def test_a_session_accepted_too_late_is_a_violation(
    wall_time: float, monotonic: float, hit: bool
) -> None:
    found = verdict_on(wall_time=wall_time, monotonic=monotonic, hit=hit)
    assert len(found.violations) == 1
    assert found.violations[0].startswith("sync: session 0, ended by sign-out, was accepted by")


def test_an_allowed_acceptance_is_not_a_violation() -> None:
    within_the_lease = verdict_on(wall_time=102.0, monotonic=52.0, hit=True)
    assert not within_the_lease.violations
    assert within_the_lease.late_hits == 1
    assert not verdict_on(wall_time=99.9, monotonic=49.9, hit=False).violations
    assert not verdict_on(wall_time=110, monotonic=60, hit=False, accepted=False).violations


def test_each_ending_applies_to_its_own_session_only() -> None:
    later = Ending("everybody's sweep", session=0, effective=105.0, answered=53.0)
    other = Ending("revocation", session=1, effective=90.0, answered=40.0)
    history = [Validation(0, 103.0, 52.9, accepted=True, hit=True)]
    assert len(judge([later, ENDING], {"sync": history}).violations) == 1
    assert not judge([later, other], {"sync": history}).violations


@pytest.mark.soak
def test_no_client_accepts_a_session_after_its_effective_time_in_any_failure(
    tmp_path: Path,
) -> None:
    total = Verdict()
    with world(2030, tmp_path) as made:
        for _ in range(ROUNDS):
            total += made.round()

    assert not total.violations, (total.violations[:5], made.counts)
    # The rounds had hits and endings.
    assert total.hits > 100
    assert total.endings >= 10 * ROUNDS
