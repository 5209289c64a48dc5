"""Inserting, renewing, ending and sweeping sessions."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.domain.token import hash_secret
from session_authority_server.ports.store import Transaction
from tests.contract.transacting import REVOKED, end
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    stored_fields,
)

EXPIRED = Ending(START + MINUTE, EndReason.EXPIRED, InitiatingEntity.POLICY)


# Sessions


async def test_a_new_session_gets_the_epochs_of_its_insert_statement(engine: Engine) -> None:
    await engine.sweep("ann", START)
    await engine.sweep_everybody(START)
    stale = replace(a_session(), user_epoch=41, global_epoch=42, current_user_epoch=43)

    async def work(transaction: Transaction) -> Session:
        await transaction.lock_user("ann")
        await transaction.sweep_user("ann", Sweep(START, InitiatingEntity.USER))
        return await transaction.insert_session(stale)

    inserted = await engine.sessions.transact(work)
    assert (inserted.user_epoch, inserted.current_user_epoch) == (2, 2)
    assert (inserted.global_epoch, inserted.current_global_epoch) == (1, 1)
    assert stored_fields(await engine.get(stale.session_id)) == stored_fields(inserted)
    assert is_live(inserted, START)


async def test_a_sign_in_that_races_a_global_sweep_is_either_swept_or_later(
    engine: Engine,
) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> bool:
        await transaction.lock_user("ann")
        # On SQLite, the sweep waits for this transaction. On PostgreSQL, it does not wait.
        done, _ = await asyncio.wait([sweeping], timeout=0.3)
        await transaction.insert_session(session)
        return bool(done)

    sweeping = asyncio.ensure_future(_after_a_moment(engine.sweep_everybody(START)))
    swept_before = await engine.sessions.transact(work)
    await sweeping
    found = await engine.get(session.session_id)
    assert found.current_global_epoch == 1
    assert found.global_epoch == (1 if swept_before else 0)
    assert is_live(found, START) == swept_before


async def _after_a_moment(call: Awaitable[None]) -> None:
    await asyncio.sleep(0.05)
    await call


async def test_a_session_that_is_renewed_and_ended_concurrently_stays_ended(engine: Engine) -> None:
    for _ in range(10):
        session = a_session()
        await engine.add(session)
        _, ended = await asyncio.gather(
            renew(engine, renewed(session, START + SECOND), session.secret_hash),
            end(engine, session),
        )
        assert ended
        assert (await engine.get(session.session_id)).ending == REVOKED


async def test_a_sweep_ends_a_session_inserted_earlier_in_the_same_transaction(
    engine: Engine,
) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        await transaction.insert_session(session)
        await transaction.sweep_user("ann", Sweep(START, InitiatingEntity.USER))

    await engine.sessions.transact(work)
    assert not is_live(await engine.get(session.session_id), START)


async def test_only_a_live_session_gets_a_name(engine: Engine) -> None:
    live, ended, expired = a_session(), a_session(), a_session(lifetime=SECOND)
    swept = a_session("bob")
    await engine.add(live, ended, expired, swept)
    await end(engine, ended)
    await engine.sweep("bob", START)

    async def work(transaction: Transaction) -> list[bool]:
        return [
            await transaction.name_session(each.session_id, "Study", START + SECOND)
            for each in (live, ended, expired, swept)
        ]

    assert await engine.sessions.transact(work) == [True, False, False, False]
    labels = [(await engine.get(each.session_id)).label for each in (live, ended, expired, swept)]
    assert labels == ["Study", None, None, None]


async def test_one_of_many_concurrent_endings_succeeds(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    endings = [
        Ending(START + n * SECOND, EndReason.REVOKED, InitiatingEntity.USER) for n in range(20)
    ]
    counted = await asyncio.gather(*(end(engine, session, ending) for ending in endings))
    assert counted.count(True) == 1
    recorded = (await engine.get(session.session_id)).ending
    assert recorded == endings[counted.index(True)]


async def test_ending_an_unknown_session_changes_nothing(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    assert not await end(engine, replace(session, session_id=uuid4()))
    assert is_live(await engine.get(session.session_id), START)


async def test_reading_an_unknown_session_returns_none(engine: Engine) -> None:
    assert await engine.sessions.transact(lambda work: work.read_session(uuid4())) is None


def renewed(session: Session, at: datetime) -> Session:
    return replace(
        session,
        secret_hash=hash_secret(b"n" * 32),
        superseded_hashes=session.secret_hash,
        authenticate_time=at,
        authentication_methods=("hwk",),
        last_active_time=at,
        expire_time=at + session.lifetime,
    )


async def renew(engine: Engine, session: Session, replaces: bytes) -> bool:
    async def work(transaction: Transaction) -> bool:
        await transaction.lock_user(session.user_id)
        return await transaction.renew_session(session, replaces=replaces)

    return await engine.sessions.transact(work)


async def test_a_renewed_session_has_its_new_secret_methods_and_times(engine: Engine) -> None:
    session = a_session(idle_timeout=MINUTE)
    await engine.add(session)
    new = renewed(session, START + 30 * SECOND)
    assert await renew(engine, new, session.secret_hash)
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(new)
    # The worker checks the session at its new idle time.
    assert await engine.upkeep.count_overdue(START + 80 * SECOND, 10) == 0
    assert await engine.upkeep.count_overdue(START + 90 * SECOND, 10) == 1


async def test_renewing_a_session_keeps_its_user_agent_and_creator(engine: Engine) -> None:
    session = replace(a_session(), user_agent="Mozilla/5.0", created_by="key-1")
    await engine.add(session)
    found = await engine.get(session.session_id)
    assert await renew(engine, renewed(found, START + MINUTE), session.secret_hash)
    assert await engine.user_agent(session.session_id) == "Mozilla/5.0"
    assert (await engine.get(session.session_id)).created_by == "key-1"


async def test_a_session_whose_secret_has_changed_is_not_renewed(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    assert not await renew(engine, renewed(session, START + SECOND), hash_secret(b"o" * 32))
    assert stored_fields(await engine.get(session.session_id)) == stored_fields(session)


async def test_a_session_that_has_just_ended_is_not_renewed(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await end(engine, session)
    assert not await renew(engine, renewed(session, START + SECOND), session.secret_hash)
    assert (await engine.get(session.session_id)).ending == REVOKED


async def test_renewing_a_swept_session_does_not_make_it_live(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await engine.sweep("ann", START + SECOND)
    await renew(engine, renewed(session, START + MINUTE), session.secret_hash)
    assert not is_live(await engine.get(session.session_id), START + MINUTE)


# Sweeps


async def test_a_sweep_ends_all_sessions_of_its_user_and_no_others(engine: Engine) -> None:
    hers = [a_session() for _ in range(5)]
    his = a_session("bob")
    await engine.add(*hers, his)
    await engine.sweep("ann", START + SECOND)
    found = await engine.sessions.read_sessions(ids([*hers, his]))
    assert [is_live(found[each.session_id], START + SECOND) for each in hers] == [False] * 5
    assert is_live(found[his.session_id], START + SECOND)


async def test_an_exemption_lasts_until_the_next_sweep(engine: Engine) -> None:
    current = a_session()
    await engine.add(current)
    await engine.sweep("ann", START + SECOND, exempt=current.session_id)
    assert is_live(await engine.get(current.session_id), START + SECOND)
    await engine.sweep("ann", START + 2 * SECOND)
    found = await engine.get(current.session_id)
    assert not is_live(found, START + 2 * SECOND)
    assert found.sweep == Sweep(START + 2 * SECOND, InitiatingEntity.USER)


async def test_a_sign_in_after_a_sweep_is_live(engine: Engine) -> None:
    await engine.sweep("ann", START + DAY)
    session = a_session(at=START)  # even if the clock dates the sweep after the sign-in
    await engine.add(session)
    assert is_live(await engine.get(session.session_id), START)
