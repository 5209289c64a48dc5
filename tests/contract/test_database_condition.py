"""`read_last_check_time`: the latest check time of any live session, estimated from an index."""

from dataclasses import replace

import pytest

from session_authority_server.check import database_condition
from session_authority_server.check.database_condition import read_last_check_time
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session

NOW = START + DAY


async def test_the_last_check_time_is_that_of_a_session_without_an_idle_timeout(
    engine: Engine,
) -> None:
    await engine.add(
        a_session("ann", lifetime=3 * DAY),
        a_session("bob", lifetime=9 * DAY, idle_timeout=2 * DAY),
        a_session("eve", lifetime=2 * DAY),
    )
    assert await read_last_check_time(engine.database, NOW) == START + 3 * DAY


async def test_ended_and_overdue_sessions_have_no_last_check_time(engine: Engine) -> None:
    assert await read_last_check_time(engine.database, NOW) is None
    ended = Ending(START + MINUTE, EndReason.SIGNED_OUT, InitiatingEntity.USER)
    await engine.fill(
        [
            replace(a_session("ann", lifetime=90 * DAY), ending=ended),
            a_session("ann", lifetime=DAY),  # expired, not yet recorded
        ]
    )
    assert await read_last_check_time(engine.database, NOW) is None
    assert await read_last_check_time(engine.database, NOW - SECOND) == NOW


@pytest.mark.parametrize("whose", ["hers", "everybodys"])
async def test_swept_sessions_have_no_last_check_time_before_their_ending_is_recorded(
    engine: Engine, whose: str
) -> None:
    await engine.add(a_session("ann", lifetime=90 * DAY))
    await engine.add(a_session("bob", lifetime=2 * DAY))
    if whose == "hers":
        await engine.sweep("ann", START + MINUTE)
    else:
        await engine.sweep_everybody(START + MINUTE)
    expected = START + 2 * DAY if whose == "hers" else None
    assert await read_last_check_time(engine.database, NOW) == expected


async def test_swept_sessions_count_as_live_if_the_scan_finds_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.add(*(a_session("ann", lifetime=(90 - n) * DAY) for n in range(3)))
    await engine.add(a_session("bob", lifetime=2 * DAY))
    await engine.sweep("ann", START + MINUTE)
    for looked_at, until in ((3, 90 * DAY), (4, 2 * DAY)):
        monkeypatch.setattr(database_condition, "SCANNED_ROWS", looked_at)
        assert await read_last_check_time(engine.database, NOW) == START + until
