"""Settling sweeps of one user and of all users."""

import asyncio
import itertools

import pytest
from sqlalchemy import insert

from session_authority_server.domain.session import Ending, EndReason
from session_authority_server.ports.upkeep import PendingSweep
from session_authority_server.store.tables import EVERYBODY, sweeps
from tests.contract.upkeeping import INSTANT, NOW, USER, end, recorded, settle
from tests.support.engines import (
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    sweep_row,
)

# Sweeps


async def test_a_users_sweep_is_pending_until_it_is_settled(engine: Engine) -> None:
    await engine.add(a_session())
    await engine.sweep("ann", START)
    pending = PendingSweep("ann", 1)
    assert await engine.upkeep.pending_sweeps(10) == [pending]
    await settle(engine, pending, NOW, 10)
    assert await engine.upkeep.pending_sweeps(10) == [pending]
    await engine.upkeep.settle_sweep(pending)
    await engine.upkeep.settle_sweep(pending)
    assert await engine.upkeep.pending_sweeps(10) == []


async def test_pending_sweeps_come_oldest_first_up_to_a_limit(engine: Engine) -> None:
    await engine.sweep("cid", START + 3 * SECOND)
    await engine.sweep("ann", START + 1 * SECOND)
    await engine.sweep_everybody(START + 2 * SECOND)
    await engine.sweep("ann", START + 4 * SECOND)
    expected = [
        PendingSweep("ann", 2),  # replaces her first sweep
        PendingSweep(EVERYBODY, 1),
        PendingSweep("cid", 1),
    ]
    assert await engine.upkeep.pending_sweeps(10) == expected
    assert await engine.upkeep.pending_sweeps(2) == expected[:2]


async def test_settling_a_sweep_settles_only_earlier_sweeps_of_the_same_user(
    engine: Engine,
) -> None:
    await engine.execute(
        insert(sweeps).values(
            [sweep_row(user, epoch, START, USER) for user in ("ann", "bob") for epoch in (1, 2, 3)]
        )
    )
    await engine.upkeep.settle_sweep(PendingSweep("ann", 3))
    await engine.upkeep.settle_sweep(PendingSweep("bob", 2))
    assert await engine.upkeep.pending_sweeps(10) == [PendingSweep("bob", 3)]
    assert await engine.upkeep.purge_sweeps(START, 10) == 0
    assert await engine.upkeep.purge_sweeps(START + INSTANT, 3) == 3
    assert await engine.upkeep.purge_sweeps(START + INSTANT, 10) == 2
    assert await engine.upkeep.pending_sweeps(10) == [PendingSweep("bob", 3)]


async def test_the_sessions_that_a_sweep_would_end_can_be_counted(engine: Engine) -> None:
    await engine.add(*(a_session() for _ in range(5)), a_session("bob"))
    await engine.sweep("ann", START + SECOND)
    assert await engine.upkeep.count_swept(PendingSweep("ann", 1), 3) == 3
    assert await engine.upkeep.count_swept(PendingSweep("ann", 1), 10) == 5
    assert await engine.upkeep.count_swept(PendingSweep(EVERYBODY, 1), 10) == 6


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 11])
async def test_a_users_sweep_ends_only_their_sessions_in_the_order_of_ids(
    engine: Engine, limit: int
) -> None:
    hers = [a_session() for _ in range(10)]
    his = a_session("bob")
    current = a_session()
    await engine.add(*hers, his, current)
    await engine.sweep("ann", START + MINUTE, exempt=current.session_id)
    newer = a_session()
    await engine.add(newer)
    batches = await settle(engine, PendingSweep("ann", 1), NOW, limit)
    ended = [each.session_id for batch in batches for each in batch.ended]
    assert all(len(batch.ended) <= limit for batch in batches)
    assert sorted(ended) == sorted(ids(hers))
    for one, following in itertools.pairwise(batches):
        if one.ended and following.ended:
            assert max(each.session_id for each in one.ended) < min(
                each.session_id for each in following.ended
            )
    swept = Ending(START + MINUTE, EndReason.REVOKED, USER)
    assert [await recorded(engine, session) for session in hers] == [swept] * 10
    assert [await recorded(engine, each) for each in (his, current, newer)] == [None] * 3


@pytest.mark.parametrize("limit", [2, 10])
async def test_a_global_sweep_ends_earlier_sessions_and_no_later_ones(
    engine: Engine, limit: int
) -> None:
    old = [a_session(f"user-{n % 3}") for n in range(6)]
    await engine.add(*old)
    await engine.sweep_everybody(START + MINUTE)
    new = [a_session(f"user-{n % 3}") for n in range(3)]
    await engine.add(*new)
    batches = await settle(engine, PendingSweep(EVERYBODY, 1), NOW, limit)
    assert sorted(each.session_id for batch in batches for each in batch.ended) == sorted(ids(old))
    assert [await recorded(engine, each) for each in new] == [None] * 3


async def test_a_sweep_that_two_workers_settle_ends_each_session_once(engine: Engine) -> None:
    sessions = [a_session() for _ in range(20)]
    await engine.add(*sessions)
    await engine.sweep("ann", START)
    sweep = PendingSweep("ann", 1)
    both = await asyncio.gather(settle(engine, sweep, NOW, 3), settle(engine, sweep, NOW, 4))
    ended = [each.session_id for batches in both for batch in batches for each in batch.ended]
    assert sorted(ended) == sorted(ids(sessions))


async def test_a_sweep_continues_after_a_given_id(engine: Engine) -> None:
    sessions = sorted((a_session() for _ in range(5)), key=lambda each: each.session_id)
    await engine.add(*sessions)
    await engine.sweep("ann", START)
    after = sessions[2].session_id
    batch = await engine.upkeep.end_swept(PendingSweep("ann", 1), NOW, after, 10)
    assert {each.session_id for each in batch.ended} == set(ids(sessions[3:]))
    assert batch.last is None
    assert batch.left == 0


async def test_a_global_sweep_scans_a_limited_number_of_sessions_per_batch(
    engine: Engine,
) -> None:
    sessions = sorted((a_session() for _ in range(9)), key=lambda each: each.session_id)
    await engine.add(*sessions)
    for session in sessions[:6]:
        await end(engine, session, START + SECOND)
    await engine.sweep_everybody(START + 2 * SECOND)
    batches = await settle(engine, PendingSweep(EVERYBODY, 1), NOW, 4)
    assert [len(batch.ended) for batch in batches] == [0, 2, 1]
