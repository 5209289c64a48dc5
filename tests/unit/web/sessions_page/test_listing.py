from datetime import UTC, datetime
from typing import Any

import pytest

from session_authority import Device, Location, Session, SessionState
from session_authority.web.sessions_page.listing import by_device

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
GERMANY, FRANCE = Location(country_code="DE"), Location(country_code="FR")


def a_session(session_id: str, **details: Any) -> Session:
    given = {"device": Device(browser="Chrome", os="Windows"), "location": GERMANY, **details}
    return Session(
        session_id=session_id,
        user_id="ada",
        state=SessionState.ACTIVE,
        current=False,
        create_time=NOON,
        authenticate_time=NOON,
        last_active_time=NOON,
        expire_time=NOON,
        **given,
    )


@pytest.mark.parametrize(
    "difference",
    [
        {"location": FRANCE},
        {"location": None},
        {"device": Device(browser="Firefox", os="Windows")},
        {"label": "Work laptop"},
        {"actor_id": "support"},
    ],
)
def test_a_session_that_differs_stays_out_of_the_group(difference: dict[str, Any]) -> None:
    same = [a_session(each) for each in "acd"]
    other = a_session("b", **difference)
    assert by_device([same[0], other, *same[1:]]) == [same, [other]]


def test_two_sessions_are_no_group() -> None:
    sessions = [a_session("a"), a_session("b")]
    assert by_device(sessions) == [[each] for each in sessions]
