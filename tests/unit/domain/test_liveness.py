from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from session_authority_server.domain.liveness import ending_of, is_live
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from tests.support.engines import DAY, MINUTE, SECOND, START, a_session

INSTANT = timedelta(microseconds=1)
POLICY = InitiatingEntity.POLICY


def test_a_new_session_is_live() -> None:
    assert is_live(a_session(), START)
    assert ending_of(a_session(), START) is None


@pytest.mark.parametrize("step", [INSTANT, SECOND])
def test_a_session_is_live_until_exactly_the_end_of_its_lifetime(step: timedelta) -> None:
    session = a_session(lifetime=90 * DAY)
    end = START + 90 * DAY
    assert is_live(session, end - step)
    assert not is_live(session, end)
    assert not is_live(session, end + step)
    assert ending_of(session, end) == Ending(end, EndReason.EXPIRED, POLICY)


@pytest.mark.parametrize("step", [INSTANT, SECOND])
def test_a_session_is_live_until_exactly_its_idle_timeout(step: timedelta) -> None:
    session = a_session(idle_timeout=MINUTE, last_active=START + MINUTE)
    end = START + 2 * MINUTE
    assert is_live(session, end - step)
    assert not is_live(session, end)
    assert ending_of(session, end + DAY) == Ending(end, EndReason.IDLE_TIMEOUT, POLICY)


def test_a_session_without_idle_timeout_is_never_idle() -> None:
    assert is_live(a_session(lifetime=90 * DAY), START + 89 * DAY)


@pytest.mark.parametrize(
    "swept",
    [
        replace(a_session(), current_user_epoch=1),
        replace(a_session(), current_global_epoch=1),
        replace(a_session(), user_epoch=1, current_user_epoch=2),
        replace(
            a_session(), user_epoch=2, current_user_epoch=1
        ),  # an impossible value, which must not be live
    ],
)
def test_a_session_of_another_epoch_is_not_live_at_any_time(swept: Session) -> None:
    for now in (START - DAY, START, START + DAY):
        assert not is_live(swept, now)
        assert ending_of(swept, now) is not None


def test_a_session_with_an_ending_is_not_live_even_before_the_time_of_the_ending() -> None:
    ending = Ending(START + DAY, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    session = replace(a_session(), ending=ending)
    assert not is_live(session, START)
    assert ending_of(session, START) == ending


def test_a_recorded_ending_overrides_all_implied_ones() -> None:
    ending = Ending(START + DAY, EndReason.LIMIT, POLICY)
    session = replace(
        a_session(lifetime=SECOND),
        ending=ending,
        current_user_epoch=1,
        sweep=Sweep(START, InitiatingEntity.USER),
    )
    assert ending_of(session, START + 2 * DAY) == ending


def swept_at(time: datetime) -> Session:
    """Return a session that is idle at 10 s, expires at 20 s and was swept."""
    session = a_session(idle_timeout=10 * SECOND, lifetime=20 * SECOND)
    return replace(session, current_user_epoch=1, sweep=Sweep(time, InitiatingEntity.ADMIN))


@pytest.mark.parametrize(
    ("swept_seconds", "reason", "seconds"),
    [
        (5, EndReason.REVOKED, 5),
        (10, EndReason.REVOKED, 10),
        (11, EndReason.IDLE_TIMEOUT, 10),
        (30, EndReason.IDLE_TIMEOUT, 10),
    ],
)
@pytest.mark.parametrize("now_seconds", [0, 9, 10, 25, 1000])
def test_the_earliest_ending_counts_at_any_time(
    swept_seconds: int, reason: EndReason, seconds: int, now_seconds: int
) -> None:
    ending = ending_of(swept_at(START + swept_seconds * SECOND), START + now_seconds * SECOND)
    assert ending is not None
    assert (ending.reason, ending.time) == (reason, START + seconds * SECOND)


def test_if_idle_timeout_and_expiry_coincide_the_reason_is_idle_timeout() -> None:
    session = a_session(idle_timeout=MINUTE, lifetime=MINUTE)
    ending = ending_of(session, START + MINUTE)
    assert ending == Ending(START + MINUTE, EndReason.IDLE_TIMEOUT, POLICY)


def test_a_lifetime_shorter_than_the_idle_timeout_ends_a_session() -> None:
    session = a_session(idle_timeout=2 * MINUTE, lifetime=MINUTE)
    ending = ending_of(session, START + DAY)
    assert ending == Ending(START + MINUTE, EndReason.EXPIRED, POLICY)


def test_a_sweep_without_a_known_time_counts_as_now() -> None:
    session = replace(a_session(), current_global_epoch=1)
    undated = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.SYSTEM)
    assert ending_of(session, START + SECOND) == undated
