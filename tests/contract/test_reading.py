import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.ports.store import BATCH_LIMIT, Touch, Transaction
from tests.support.engines import DAY, SECOND, START, Engine, a_session, at, ids, stored_fields


async def test_every_field_of_a_session_is_read_back_as_written(engine: Engine) -> None:
    written = replace(
        a_session("ann ✓ 漢字", idle_timeout=timedelta(minutes=5, microseconds=1)),
        secret_hash=bytes(range(32)),
        superseded_hashes=b"\0\xff" * 32,
        device=Device("Chrome", "140.0", "Windows", "11", DeviceType.DESKTOP),
        user_agent="Mozilla/5.0 '\"; DROP TABLE sessions; --",
        ip_address="2001:db8::1",
        last_ip_address="198.51.100.7",
        authentication_methods=("pwd", "otp"),
        create_time=START + timedelta(microseconds=123_457),
        attributes={"ünï": "čödé\n", "empty": ""},
        created_by="key-1",
    )
    await engine.add(written)
    # The user agent is stored unchanged, and no method reads it back.
    assert stored_fields(await engine.get(written.session_id)) == stored_fields(written)
    assert await engine.user_agent(written.session_id) == written.user_agent


async def test_an_ended_session_is_read_back_with_its_ending(engine: Engine) -> None:
    for reason in EndReason:
        for entity in InitiatingEntity:
            session = a_session()
            await engine.add(session)
            ending = Ending(START + SECOND, reason, entity)

            async def work(
                transaction: Transaction, session: Session = session, ending: Ending = ending
            ) -> bool:
                return await transaction.end_session(session.session_id, ending)

            assert await engine.sessions.transact(work)
            assert (await engine.get(session.session_id)).ending == ending


async def test_a_session_without_optional_fields_is_read_back_without_them(engine: Engine) -> None:
    session = replace(a_session(), ip_address=None, last_ip_address=None, authentication_methods=())
    await engine.add(session)
    found = await engine.get(session.session_id)
    assert stored_fields(found) == stored_fields(session)
    assert dict(found.attributes) == {}


async def test_unknown_ids_are_left_out(engine: Engine) -> None:
    session, unknown = a_session(), uuid4()
    await engine.add(session)
    for wanted in ([unknown, session.session_id], (unknown, session.session_id)):
        found = await engine.sessions.read_sessions(wanted)
        assert set(found) == {session.session_id}
    assert await engine.sessions.read_sessions([]) == {}


async def test_a_whole_batch_is_read_at_once(engine: Engine) -> None:
    sessions = [a_session(f"user-{number % 7}") for number in range(BATCH_LIMIT)]
    await engine.fill(sessions)
    found = await engine.sessions.read_sessions(ids(sessions))
    assert set(found) == set(ids(sessions))


async def test_a_read_sees_every_commit_that_was_answered_before_the_read_began(
    engine: Engine,
) -> None:
    session = a_session()
    await engine.add(session)
    for number in range(1, 60):
        moment = START + number * SECOND
        await engine.sessions.touch([Touch(session.session_id, moment, None)], at(moment))
        # Concurrent reads use several connections, and each must be up to date.
        found = await asyncio.gather(*(engine.get(session.session_id) for _ in range(6)))
        assert {each.last_active_time for each in found} == {moment}


async def test_a_swept_session_is_read_with_the_current_epochs_and_the_first_sweep(
    engine: Engine,
) -> None:
    session = a_session()
    await engine.add(session)
    await engine.sweep("ann", START + 2 * SECOND)
    await engine.sweep("ann", START + 4 * SECOND, InitiatingEntity.ADMIN)
    found = await engine.get(session.session_id)
    assert (found.user_epoch, found.current_user_epoch) == (0, 2)
    assert found.sweep == Sweep(START + 2 * SECOND, InitiatingEntity.USER)


async def test_the_earlier_of_a_user_sweep_and_a_global_sweep_ends_the_session(
    engine: Engine,
) -> None:
    early, late = a_session("ann"), a_session("bob")
    await engine.add(early, late)
    await engine.sweep("ann", START + SECOND)
    await engine.sweep_everybody(START + 2 * SECOND)
    await engine.sweep("bob", START + 3 * SECOND)
    by_user = (await engine.get(early.session_id)).sweep
    by_all = (await engine.get(late.session_id)).sweep
    assert by_user == Sweep(START + SECOND, InitiatingEntity.USER)
    assert by_all == Sweep(START + 2 * SECOND, InitiatingEntity.ADMIN)


async def test_sweeps_before_a_session_was_created_do_not_end_it(engine: Engine) -> None:
    await engine.sweep("ann", START)
    await engine.sweep_everybody(START)
    session = a_session(at=START + DAY)
    await engine.add(session)
    found = await engine.get(session.session_id)
    assert found.sweep is None
    assert found.user_epoch == found.current_user_epoch == 1
    assert found.global_epoch == found.current_global_epoch == 1


async def test_cancelled_reads_leave_the_store_working(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    for _ in range(5):
        readers = [asyncio.create_task(engine.get(session.session_id)) for _ in range(20)]
        await asyncio.sleep(0.001)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    found = await asyncio.gather(*(engine.get(session.session_id) for _ in range(20)))
    assert all(each.session_id == session.session_id for each in found)
