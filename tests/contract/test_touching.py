import asyncio

import pytest

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import BATCH_LIMIT, Touch, Transaction
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session, ids, stored_fields


async def test_an_activity_updates_time_and_address(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    moment = START + MINUTE
    touch = Touch(session.session_id, moment, "203.0.113.9")
    assert await engine.sessions.touch([touch], lambda: moment) == 1
    found = await engine.get(session.session_id)
    assert (found.last_active_time, found.last_ip_address) == (moment, "203.0.113.9")
    assert found.ip_address == session.ip_address


async def test_an_activity_without_an_address_keeps_the_last_one(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await engine.sessions.touch(
        [Touch(session.session_id, START + SECOND, None)], lambda: START + SECOND
    )
    assert (await engine.get(session.session_id)).last_ip_address == session.last_ip_address


@pytest.mark.parametrize("back_seconds", [0, 1, 3600])
async def test_an_activity_never_moves_back(engine: Engine, back_seconds: int) -> None:
    session = a_session(last_active=START + MINUTE)
    await engine.add(session)
    touch = Touch(session.session_id, START + MINUTE - back_seconds * SECOND, "203.0.113.9")
    assert await engine.sessions.touch([touch], lambda: START + MINUTE) == 0
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_activities_in_any_order_keep_the_latest(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    now = START + MINUTE
    await asyncio.gather(
        *(
            engine.sessions.touch(
                [Touch(session.session_id, START + n * SECOND, None)], lambda: now
            )
            for n in (5, 9, 2, 8, 1)
        )
    )
    assert (await engine.get(session.session_id)).last_active_time == START + 9 * SECOND


@pytest.mark.parametrize("death", ["ended", "expired", "idle", "swept", "all swept", "purged"])
async def test_an_activity_never_changes_an_ended_session(engine: Engine, death: str) -> None:
    session = a_session(
        lifetime=MINUTE if death == "expired" else 60 * MINUTE,
        idle_timeout=MINUTE if death == "idle" else None,
    )
    await engine.add(session)
    now = START + MINUTE
    match death:
        case "ended":
            await _end(engine, session)
        case "swept":
            await engine.sweep("ann", START)
        case "all swept":
            await engine.sweep_everybody(START)
        case "purged":
            await _end(engine, session)
            assert await engine.upkeep.purge_ended(START + SECOND, 10) == 1
    # the activity was while the session was live, and is written after its ending
    touch = Touch(session.session_id, START + 30 * SECOND, "203.0.113.9")
    assert await engine.sessions.touch([touch], lambda: now) == 0
    found = await engine.sessions.read_sessions([session.session_id])
    assert all(each.last_active_time == START for each in found.values())


async def test_an_activity_that_races_an_ending_changes_nothing_after_the_ending(
    engine: Engine,
) -> None:
    sessions = [a_session() for _ in range(30)]
    await engine.add(*sessions)
    moment = START + SECOND

    async def touch_all(seconds: int) -> None:
        touches = [Touch(each, START + seconds * SECOND, None) for each in ids(sessions)]
        await engine.sessions.touch(touches, lambda: moment)

    async def end_and_look(session: Session) -> None:
        await _end(engine, session)
        at_the_end = stored_fields(await engine.get(session.session_id))
        await asyncio.sleep(0.01)
        assert stored_fields(await engine.get(session.session_id)) == at_the_end

    await asyncio.gather(*map(end_and_look, sessions), *map(touch_all, range(1, 9)))
    found = (await engine.sessions.read_sessions(ids(sessions))).values()
    before = {each.session_id: each.last_active_time for each in found}
    await touch_all(59)
    found = (await engine.sessions.read_sessions(ids(sessions))).values()
    assert {each.session_id: each.last_active_time for each in found} == before


async def test_an_activity_at_the_last_instant_of_a_session_is_recorded(engine: Engine) -> None:
    session = a_session(idle_timeout=MINUTE)
    await engine.add(session)
    moment = START + MINUTE - SECOND / 1_000_000
    assert (
        await engine.sessions.touch([Touch(session.session_id, moment, None)], lambda: moment) == 1
    )


async def test_a_batch_of_activities_is_written_at_once_and_counted(engine: Engine) -> None:
    sessions = [a_session(f"user-{number % 7}") for number in range(BATCH_LIMIT)]
    await engine.fill(sessions)
    await engine.sweep("user-3", START)
    moment = START + MINUTE
    touches = [Touch(session_id, moment, "203.0.113.9") for session_id in ids(sessions)]
    alive = sum(session.user_id != "user-3" for session in sessions)
    assert await engine.sessions.touch(touches, lambda: moment) == alive
    found = await engine.sessions.read_sessions(ids(sessions))
    moved = {each.user_id for each in found.values() if each.last_active_time == moment}
    assert moved == {f"user-{number}" for number in range(7)} - {"user-3"}


async def test_an_empty_batch_of_activities_changes_nothing(engine: Engine) -> None:
    assert await engine.sessions.touch([], lambda: START) == 0


async def _end(engine: Engine, session: Session) -> None:
    async def work(transaction: Transaction) -> None:
        ending = Ending(START, EndReason.REVOKED, InitiatingEntity.USER)
        await transaction.end_session(session.session_id, ending)

    await engine.sessions.transact(work)
