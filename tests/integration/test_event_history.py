"""The checker of event deliveries finds each kind of fault."""

from dataclasses import replace

import pytest

from tests.integration.event_history import (
    Committed,
    Truth,
    arrivals,
    check_arrivals,
    check_events,
    check_replay,
)

EVENTS = [
    Committed("e1", "ann", "session-established", "s1"),
    Committed("e2", "bob", "session-established", "s2"),
    Committed("e3", "ann", "session-ended", "s1"),
    Committed("e4", "ann", "sessions-swept", "", "12:00"),
]
TRUTH = Truth(
    EVENTS,
    {"s1", "s2"},
    {"s1": ("ann", "11:00"), "s0": ("ann", "12:00")},
    {("session-established", "s1"): 1, ("sessions-swept", "ann"): 1},
)


def test_repetitions_and_any_order_between_users_are_fine() -> None:
    check_arrivals(["e2", "e1", "e3", "e1", "e3", "e4"], EVENTS)
    check_events(TRUTH)


@pytest.mark.parametrize(
    ("arrived", "fault"),
    [
        (["e1", "e2", "e3"], "did not arrive"),
        (["e1", "e2", "e3", "e4", "e5"], "rolled back"),
        (["e3", "e1", "e2", "e4", "e3"], "came after"),
    ],
)
def test_a_wrong_arrival_is_found(arrived: list[str], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_arrivals(arrived, EVENTS)


def test_a_gap_of_a_replay_is_found() -> None:
    check_replay(["e3", "e1", "e2", "e4", "e1"], EVENTS)
    with pytest.raises(AssertionError, match="gap"):
        check_replay(["e1", "e2", "e4"], EVENTS)


@pytest.mark.parametrize(
    ("truth", "fault"),
    [
        (replace(TRUTH, sessions={"s1", "s2", "s3"}), "sign-ins"),
        (replace(TRUTH, sessions={"s1"}), "sign-ins"),
        (replace(TRUTH, ended={"s1": ("ann", "11:00"), "s2": ("bob", "12:00")}), "no event"),
        (replace(TRUTH, ended={}), "not recorded"),
        (replace(TRUTH, events=[*EVENTS, EVENTS[2]]), "twice"),
        (replace(TRUTH, answered={("sessions-swept", "ann"): 2}), "no event"),
    ],
)
def test_a_wrong_event_is_found(truth: Truth, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_events(truth)


def test_a_line_that_a_crash_cut_short_does_not_count() -> None:
    assert arrivals(['e1 {"type":"test"}', 'e2 {"type":"te']) == ["e1"]
