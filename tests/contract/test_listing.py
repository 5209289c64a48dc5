from datetime import UTC, datetime, timedelta

import pytest

from session_authority_server.domain.liveness import ending_of, is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import new_id
from session_authority_server.ports.store import PageKey, Touch, Transaction
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
)

NOW = START + 60 * MINUTE


def live_key(session: Session) -> PageKey:
    return PageKey(session.last_active_time, session.session_id)


def ended_key(session: Session) -> PageKey:
    ending = ending_of(session, NOW)
    assert ending is not None
    return PageKey(ending.time, session.session_id)


async def all_live(engine: Engine, page: int = 100) -> list[Session]:
    found: list[Session] = []
    after = None
    while some := await engine.sessions.list_live("ann", NOW, after, page):
        assert len(some) <= page
        found += some
        after = live_key(found[-1])
    return found


async def all_ended(engine: Engine, page: int = 100) -> list[Session]:
    found: list[Session] = []
    after = None
    while some := await engine.sessions.list_ended("ann", NOW, after, page):
        assert len(some) <= page
        found += some
        after = ended_key(found[-1])
    return found


async def end(engine: Engine, session: Session, seconds: int) -> None:
    async def work(transaction: Transaction) -> None:
        ending = Ending(START + seconds * SECOND, EndReason.REVOKED, InitiatingEntity.USER)
        await transaction.end_session(session.session_id, ending)

    await engine.sessions.transact(work)


# Live


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
async def test_pages_of_any_size_join_without_gap_or_repetition(engine: Engine, page: int) -> None:
    # Many sessions share a last activity, so that pages end among them.
    sessions = [a_session(last_active=START + n // 4 * SECOND) for n in range(13)]
    await engine.add(*sessions)
    found = await all_live(engine, page)
    assert (
        ids(found) == ids(sorted(sessions, key=lambda s: (s.last_active_time, s.session_id)))[::-1]
    )


async def test_a_page_keeps_its_place_while_sessions_are_added_used_and_ended(
    engine: Engine,
) -> None:
    sessions = [a_session(last_active=START + n * SECOND) for n in range(10)]
    await engine.add(*sessions)
    first = await engine.sessions.list_live("ann", NOW, None, 4)
    await engine.add(a_session(last_active=START + MINUTE))  # a new session, listed before the key
    await engine.sessions.touch(
        [Touch(sessions[2].session_id, NOW, None)], lambda: NOW
    )  # this activity moves the session before the key
    await end(engine, first[-1], 0)  # the session that the key names
    await end(engine, sessions[4], 0)
    second = await engine.sessions.list_live("ann", NOW, live_key(first[-1]), 10)
    assert ids(second) == [sessions[n].session_id for n in (5, 3, 1, 0)]


async def test_no_list_shows_another_users_session(engine: Engine) -> None:
    hers, his = a_session("ann"), a_session("bob")
    ended, his_ended = a_session("ann"), a_session("bob")
    names = [a_session(name) for name in ("Ann", "ann ", "an", "anna", "%", "ann\u0301")]
    await engine.add(hers, his, ended, his_ended, *names)
    await end(engine, ended, 1)
    await end(engine, his_ended, 1)
    assert ids(await all_live(engine)) == [hers.session_id]
    assert ids(await all_ended(engine)) == [ended.session_id]
    since = START - DAY
    used = await engine.sessions.list_used_since("ann", NOW, since, since, None, 10)
    assert used == []


async def test_a_session_that_is_not_live_is_in_the_list_of_ended_sessions(engine: Engine) -> None:
    live = a_session()
    expired = a_session(lifetime=60 * MINUTE)
    idle = a_session(idle_timeout=60 * MINUTE)
    ended = a_session()
    await engine.add(live, expired, idle, ended)
    await end(engine, ended, 1)
    assert ids(await all_live(engine)) == [live.session_id]
    assert set(ids(await all_ended(engine))) == set(ids([expired, idle, ended]))
    just_before = NOW - SECOND / 1_000_000
    found = await engine.sessions.list_live("ann", just_before, None, 10)
    assert set(ids(found)) == set(ids([live, expired, idle]))


async def test_the_count_of_live_sessions_matches_the_list(engine: Engine) -> None:
    ended, swept = a_session(), a_session("bob")
    await engine.add(
        a_session(),
        a_session(idle_timeout=90 * MINUTE),
        a_session(lifetime=60 * MINUTE),
        a_session(idle_timeout=60 * MINUTE),
        ended,
        swept,
    )
    await end(engine, ended, 1)
    await engine.sweep("bob", START)

    assert len(await all_live(engine)) == 2
    assert [await engine.sessions.count_live("ann", NOW, limit) for limit in (1, 2, 3)] == [1, 2, 2]
    assert await engine.sessions.count_live("bob", NOW, 10) == 0
    assert await engine.sessions.count_live("unknown", NOW, 10) == 0


async def test_a_sweep_moves_all_sessions_into_the_list_of_ended_sessions(engine: Engine) -> None:
    sessions = [a_session() for _ in range(3)]
    await engine.add(*sessions)
    await engine.sweep_everybody(START + MINUTE)
    assert await all_live(engine) == []
    found = await all_ended(engine)
    assert set(ids(found)) == set(ids(sessions))
    assert {ending_of(each, NOW) for each in found} == {
        Ending(START + MINUTE, EndReason.REVOKED, InitiatingEntity.ADMIN)
    }


async def test_a_user_without_sessions_has_empty_lists(engine: Engine) -> None:
    assert await all_live(engine) == []
    assert await all_ended(engine) == []
    assert await engine.sessions.list_used_since("ann", NOW, START, START, None, 10) == []


# Used since


async def test_list_used_since_returns_sessions_created_before_and_used_after_a_time(
    engine: Engine,
) -> None:
    since = START + 10 * SECOND
    at_once = a_session(at=since, last_active=since + SECOND)
    before = a_session(at=START, last_active=since)
    used = a_session(at=START, last_active=since + 2 * SECOND)
    newer = a_session(at=since + SECOND, last_active=since + 3 * SECOND)
    dead = a_session(at=START, last_active=since + SECOND, lifetime=MINUTE)
    await engine.add(at_once, before, used, newer, dead)
    found = await engine.sessions.list_used_since("ann", NOW, since, since, None, 10)
    assert ids(found) == ids([used, at_once])
    rest = await engine.sessions.list_used_since("ann", NOW, since, since, live_key(used), 10)
    assert ids(rest) == ids([at_once])


# Ended


async def test_recorded_and_implied_endings_share_one_list_latest_first(engine: Engine) -> None:
    recorded = [a_session() for _ in range(3)]
    expired = [a_session(lifetime=seconds * SECOND) for seconds in (15, 35)]
    idle = [a_session(idle_timeout=seconds * SECOND) for seconds in (25, 45)]
    await engine.add(*recorded, *expired, *idle)
    for session, seconds in zip(recorded, (10, 30, 50), strict=True):
        await end(engine, session, seconds)
    found = await all_ended(engine)
    ends = [(ending_of(each, NOW), each.session_id) for each in found]
    assert [ending.time for ending, _ in ends if ending] == [
        START + seconds * SECOND for seconds in (50, 45, 35, 30, 25, 15, 10)
    ]
    assert [ending.reason for ending, _ in ends if ending] == [
        EndReason.REVOKED,
        EndReason.IDLE_TIMEOUT,
        EndReason.EXPIRED,
        EndReason.REVOKED,
        EndReason.IDLE_TIMEOUT,
        EndReason.EXPIRED,
        EndReason.REVOKED,
    ]


async def test_pages_of_ended_sessions_join_whether_or_not_the_worker_ran(engine: Engine) -> None:
    recorded = [a_session() for _ in range(4)]
    implied = [a_session(lifetime=(5 + n // 2) * SECOND) for n in range(6)]
    swept = [a_session("ann") for _ in range(3)]
    await engine.add(*recorded, *implied, *swept)
    for number, session in enumerate(recorded):
        await end(engine, session, 5 + number)
    await engine.sweep("ann", START + 6 * SECOND)
    before = await all_ended(engine)
    assert len(before) == 13
    assert before == sorted(
        before, key=lambda each: (ended_key(each).time, each.session_id), reverse=True
    )
    keys = [ended_key(each) for each in before]
    for page in (1, 2, 3):
        assert [ended_key(each) for each in await all_ended(engine, page)] == keys
    await engine.upkeep.end_overdue(NOW, 100)
    for sweep in await engine.upkeep.pending_sweeps(10):
        await engine.upkeep.end_swept(sweep, NOW, None, 100)
    for page in (1, 2, 3, 100):
        assert [ended_key(each) for each in await all_ended(engine, page)] == keys


# Many sessions


# Partitions make listing harder, not easier: plain tables need no test of this size.
@pytest.mark.parametrize("engine", ["sqlite", "partitioned"], indirect=True)
async def test_a_user_with_ten_thousand_sessions_can_be_listed(engine: Engine) -> None:
    sessions = [
        a_session(
            last_active=START + number % 997 * SECOND,
            lifetime=30 * DAY if number % 2 else 30 * MINUTE,
        )
        for number in range(10_000)
    ]
    await engine.fill(sessions)
    live = [session for session in sessions if session.lifetime == 30 * DAY]
    found = await all_live(engine, 1_000)
    assert ids(found) == ids(sorted(live, key=lambda s: (s.last_active_time, s.session_id)))[::-1]
    page = await engine.sessions.list_ended("ann", NOW, None, 200)
    rest = await engine.sessions.list_ended("ann", NOW, ended_key(page[-1]), 5_000)
    dead = {session.session_id for session in sessions} - set(ids(live))
    assert set(ids([*page, *rest])) == dead
    assert len(page) + len(rest) == 5_000


# Days of 23 or 25 hours in the database's time zone


@pytest.mark.parametrize(
    "changed", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)]
)
async def test_a_day_of_idle_timeout_has_24_hours_in_every_time_zone(
    engine: Engine, changed: datetime
) -> None:
    used = changed - timedelta(hours=12)
    session = a_session(at=used - DAY, last_active=used, idle_timeout=DAY, session_id=new_id(START))
    await engine.add(session)

    async def judged(now: datetime) -> tuple[bool, bool, bool]:
        async def work(transaction: Transaction) -> Session | None:
            return await transaction.read_session(session.session_id)

        proof = await engine.sessions.transact(work)
        assert proof is not None
        validated = await engine.get(session.session_id)
        listed = await engine.sessions.list_live("ann", now, None, 10)
        return is_live(proof, now), is_live(validated, now), bool(listed)

    assert await judged(used + DAY - SECOND) == (True, True, True)
    assert await judged(used + DAY) == (False, False, False)
