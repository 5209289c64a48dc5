"""Finding sessions that have ended and recording their endings."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.session import Ending, EndReason
from session_authority_server.ports.store import Touch
from session_authority_server.ports.upkeep import ExpiryBatch, PendingSweep, SweepBatch
from session_authority_server.store import expiry
from tests.contract.upkeeping import (
    ADMIN,
    INSTANT,
    NOW,
    POLICY,
    USER,
    end,
    ending,
    recorded,
    settle,
)
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

NOTHING = ExpiryBatch(0, [], 0)
EXPIRED, IDLE = EndReason.EXPIRED, EndReason.IDLE_TIMEOUT


# Overdue sessions


@pytest.mark.parametrize(
    ("lifetime", "idle_timeout", "expected"),
    [
        (20 * MINUTE, None, Ending(START + 20 * MINUTE, EndReason.EXPIRED, POLICY)),
        (60 * MINUTE, None, Ending(START + 60 * MINUTE, EndReason.EXPIRED, POLICY)),
        (60 * MINUTE + INSTANT, None, None),
        (90 * MINUTE, 60 * MINUTE, Ending(START + 60 * MINUTE, EndReason.IDLE_TIMEOUT, POLICY)),
        (90 * MINUTE, 60 * MINUTE + INSTANT, None),
        (20 * MINUTE, 10 * MINUTE, Ending(START + 10 * MINUTE, EndReason.IDLE_TIMEOUT, POLICY)),
        (10 * MINUTE, 20 * MINUTE, Ending(START + 10 * MINUTE, EndReason.EXPIRED, POLICY)),
        (10 * MINUTE, 10 * MINUTE, Ending(START + 10 * MINUTE, EndReason.IDLE_TIMEOUT, POLICY)),
    ],
)
async def test_the_earlier_of_expiry_and_idle_timeout_counts_and_only_idle_is_recorded(
    engine: Engine, lifetime: object, idle_timeout: object, expected: Ending | None
) -> None:
    session = a_session(lifetime=lifetime, idle_timeout=idle_timeout)  # type: ignore[arg-type]
    await engine.add(session)
    batch = await engine.upkeep.end_overdue(NOW, 10, named=True)
    assert await ending(engine, session) == expected
    if expected is None:
        assert batch == NOTHING
    else:
        idle = expected.reason is EndReason.IDLE_TIMEOUT
        assert await recorded(engine, session) == (expected if idle else None)
        ended = SessionEnded(session.session_id, "ann", expected)
        assert batch == ExpiryBatch(1, [ended], 1)


@pytest.mark.parametrize(
    ("swept_minutes", "expected"),
    [
        (5, Ending(START + 5 * MINUTE, EndReason.REVOKED, ADMIN)),
        (10, Ending(START + 10 * MINUTE, EndReason.REVOKED, ADMIN)),
        (15, Ending(START + 10 * MINUTE, EndReason.IDLE_TIMEOUT, POLICY)),
    ],
)
@pytest.mark.parametrize("whose", ["hers", "everybody's"])
async def test_the_earlier_of_sweep_and_idle_timeout_is_recorded_and_a_tie_goes_to_the_sweep(
    engine: Engine, whose: str, swept_minutes: int, expected: Ending
) -> None:
    session = a_session(lifetime=20 * MINUTE, idle_timeout=10 * MINUTE)
    await engine.add(session)
    if whose == "hers":
        await engine.sweep("ann", START + swept_minutes * MINUTE, ADMIN)
    else:
        await engine.sweep_everybody(START + swept_minutes * MINUTE, ADMIN)
    await engine.upkeep.end_overdue(NOW, 10, named=True)
    assert await recorded(engine, session) == expected


async def test_the_first_of_two_sweeps_is_recorded(engine: Engine) -> None:
    first, second = a_session("ann"), a_session("bob")
    await engine.add(first, second)
    await engine.sweep("ann", START + 1 * MINUTE, USER)
    await engine.sweep_everybody(START + 2 * MINUTE, ADMIN)
    await engine.sweep("bob", START + 3 * MINUTE, USER)
    for sweep in await engine.upkeep.pending_sweeps(10):
        await settle(engine, sweep, NOW, 10)
    assert await recorded(engine, first) == Ending(START + MINUTE, EndReason.REVOKED, USER)
    assert await recorded(engine, second) == Ending(START + 2 * MINUTE, EndReason.REVOKED, ADMIN)


async def test_a_worker_whose_clock_lags_records_the_right_ending(
    engine: Engine,
) -> None:
    """The session is idle at minute 10 and swept at minute 11. The worker's clock says minute 9."""
    session = a_session(idle_timeout=10 * MINUTE)
    await engine.add(session)
    await engine.sweep("ann", START + 11 * MINUTE)
    await settle(engine, PendingSweep("ann", 1), START + 9 * MINUTE, 10)
    idle = Ending(START + 10 * MINUTE, EndReason.IDLE_TIMEOUT, POLICY)
    assert await recorded(engine, session) == idle


async def test_a_recorded_ending_is_not_replaced(engine: Engine) -> None:
    session = a_session(lifetime=MINUTE)
    await engine.add(session)
    await end(engine, session, START + SECOND)
    await engine.sweep("ann", START)
    assert await engine.upkeep.end_overdue(NOW, 10, named=True) == NOTHING
    assert await settle(engine, PendingSweep("ann", 1), NOW, 10) == [SweepBatch((), 0, None)]
    assert await recorded(engine, session) == Ending(START + SECOND, EndReason.SIGNED_OUT, USER)


async def test_the_check_of_a_session_in_use_moves_to_its_new_idle_time(engine: Engine) -> None:
    session = a_session(idle_timeout=10 * MINUTE)
    await engine.add(session)
    used = START + 8 * MINUTE
    await engine.sessions.touch([Touch(session.session_id, used, None)], lambda: used)
    now = START + 10 * MINUTE
    assert (
        await engine.upkeep.count_overdue(now, 10) == 0
    )  # the check is due, but the session is still live
    assert await engine.upkeep.end_overdue(now, 10, named=True) == ExpiryBatch(0, [], 1)
    assert await recorded(engine, session) is None
    assert await engine.upkeep.end_overdue(now, 10, named=True) == NOTHING
    due = used + 10 * MINUTE
    assert await engine.upkeep.count_overdue(due - INSTANT, 10) == 0
    assert (await engine.upkeep.end_overdue(due, 10, named=True)).examined == 1
    assert await recorded(engine, session) == Ending(due, EndReason.IDLE_TIMEOUT, POLICY)


async def test_the_check_of_a_session_in_use_never_moves_past_its_lifetime(engine: Engine) -> None:
    session = a_session(lifetime=15 * MINUTE, idle_timeout=10 * MINUTE)
    await engine.add(session)
    used = START + 8 * MINUTE
    await engine.sessions.touch([Touch(session.session_id, used, None)], lambda: used)
    await engine.upkeep.end_overdue(START + 10 * MINUTE, 10, named=True)
    await engine.upkeep.end_overdue(START + 15 * MINUTE, 10, named=True)
    end_time = START + 15 * MINUTE
    assert await ending(engine, session) == Ending(end_time, EndReason.EXPIRED, POLICY)
    assert await engine.upkeep.end_overdue(NOW, 10, named=True) == NOTHING


async def test_batches_find_every_overdue_session_the_longest_overdue_first(engine: Engine) -> None:
    sessions = [a_session(f"user-{n % 3}", lifetime=(n + 1) * SECOND) for n in range(10)]
    await engine.add(*reversed(sessions))
    seen: list[list[UUID]] = []
    while (batch := await engine.upkeep.end_overdue(NOW, 3, named=True)).examined:
        assert batch.examined <= 3
        seen.append([ended.session_id for ended in batch.ended])
    assert [set(step) for step in seen] == [set(ids(sessions[n : n + 3])) for n in (0, 3, 6, 9)]


@pytest.mark.parametrize("idle_timeout", [None, SECOND / 2], ids=["expired", "idle"])
async def test_concurrent_workers_never_end_the_same_session(
    engine: Engine, idle_timeout: timedelta | None
) -> None:
    sessions = [a_session(lifetime=SECOND, idle_timeout=idle_timeout) for _ in range(100)]
    await engine.add(*sessions)
    batches = await asyncio.gather(
        *(engine.upkeep.end_overdue(NOW, 30, named=True) for _ in range(8))
    )
    assert not any(batch.examined or batch.ended for batch in batches if batch.busy)
    ended = [each.session_id for batch in batches for each in batch.ended]
    assert len(ended) == len(set(ended))
    while (batch := await engine.upkeep.end_overdue(NOW, 30, named=True)).examined:
        ended += [each.session_id for each in batch.ended]
    assert sorted(ended) == sorted(ids(sessions))


# The position of the scan


async def test_expired_sessions_are_not_written_and_not_scanned_again(
    engine: Engine,
) -> None:
    sessions = [a_session(lifetime=SECOND) for _ in range(5)]
    await engine.add(*sessions)
    before = [stored_fields(await engine.get(each.session_id)) for each in sessions]
    assert len((await engine.upkeep.end_overdue(NOW, 3, named=True)).ended) == 3
    assert await engine.upkeep.count_overdue(NOW, 10) == 2
    assert len((await engine.upkeep.end_overdue(NOW, 3, named=True)).ended) == 2
    assert await engine.upkeep.end_overdue(NOW + 365 * DAY, 3, named=True) == NOTHING
    assert await engine.upkeep.count_overdue(NOW + 365 * DAY, 10) == 0
    assert [stored_fields(await engine.get(each.session_id)) for each in sessions] == before


async def test_sessions_due_at_the_same_instant_are_found_in_the_order_of_ids(
    engine: Engine,
) -> None:
    sessions = sorted((a_session(lifetime=SECOND) for _ in range(7)), key=lambda s: s.session_id)
    await engine.add(*reversed(sessions))
    found: list[UUID] = []
    while (batch := await engine.upkeep.end_overdue(NOW, 2, named=True)).examined:
        found += sorted(each.session_id for each in batch.ended)
    assert found == ids(sessions)


async def test_expired_sessions_are_counted_even_if_their_ids_are_not_requested(
    engine: Engine,
) -> None:
    await engine.add(*(a_session(lifetime=SECOND) for _ in range(5)))
    await engine.add(a_session(idle_timeout=MINUTE))
    batch = await engine.upkeep.end_overdue(NOW, 10)
    assert (batch.count, len(batch.ended), batch.examined) == (6, 1, 6)


async def test_a_batch_stops_at_the_limit_of_writes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_WRITES_LIMIT", 3)
    sessions = [
        a_session(lifetime=(n + 1) * SECOND, idle_timeout=MINUTE if n % 2 else None)
        if n % 2
        else a_session(lifetime=DAY, idle_timeout=(60 + n) * SECOND)
        for n in range(20)
    ]
    await engine.add(*sessions)
    found: list[SessionEnded] = []
    while (batch := await engine.upkeep.end_overdue(NOW, 100, named=True)).examined:
        assert sum(each.ending.reason is IDLE for each in batch.ended) <= 3
        assert batch.count == len(batch.ended)
        found += batch.ended
    assert sorted(each.session_id for each in found) == sorted(ids(sessions))


async def test_sessions_behind_the_scan_end_without_a_record_and_are_purged(
    engine: Engine,
) -> None:
    first = a_session(lifetime=10 * SECOND)
    await engine.add(first)
    await engine.upkeep.end_overdue(NOW, 10, named=True)
    late = [a_session(lifetime=5 * SECOND), a_session(lifetime=DAY, idle_timeout=5 * SECOND)]
    await engine.add(*late)
    assert await engine.upkeep.end_overdue(NOW, 10, named=True) == NOTHING
    assert await engine.upkeep.oldest_overdue(NOW) is None
    expired, idle = (Ending(START + 5 * SECOND, reason, POLICY) for reason in (EXPIRED, IDLE))
    assert [await ending(engine, each) for each in late] == [expired, idle]
    listed = await engine.sessions.list_ended("ann", NOW, None, 10)
    assert set(ids(listed)) == set(ids([first, *late]))
    assert await engine.sessions.list_live("ann", NOW, None, 10) == []
    assert await engine.upkeep.purge_ended(START + 2 * DAY, 10) == 3


async def test_the_scan_starts_again_after_a_clock_that_was_far_ahead(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.add(a_session(lifetime=SECOND))
    assert (await engine.upkeep.end_overdue(NOW + 400 * DAY, 10)).count == 1
    await engine.add(a_session(lifetime=400 * DAY))
    assert (await engine.upkeep.end_overdue(NOW + 400 * DAY, 10)).count == 1
    due = a_session(at=NOW, idle_timeout=MINUTE)
    await engine.add(due)
    assert await engine.upkeep.end_overdue(NOW, 10) == NOTHING
    assert "clock was ahead" in caplog.text
    assert (await engine.upkeep.end_overdue(NOW + 2 * MINUTE, 10)).count == 1
    assert await recorded(engine, due) == Ending(NOW + MINUTE, IDLE, POLICY)


async def test_a_session_in_use_is_checked_again_when_its_idle_timeout_ends(engine: Engine) -> None:
    expired = a_session(lifetime=20 * MINUTE)
    used = a_session(idle_timeout=10 * MINUTE)
    await engine.add(expired, used)
    await engine.sessions.touch([Touch(used.session_id, NOW, None)], lambda: START + 9 * MINUTE)
    batch = await engine.upkeep.end_overdue(NOW, 10, named=True)
    assert ([each.session_id for each in batch.ended], batch.examined) == ([expired.session_id], 2)
    batch = await engine.upkeep.end_overdue(NOW + 10 * MINUTE, 10, named=True)
    idle = Ending(NOW + 10 * MINUTE, IDLE, POLICY)
    assert batch.ended == [SessionEnded(used.session_id, "ann", idle)]


@pytest.mark.parametrize("whose", ["hers", "everybody's"])
@pytest.mark.parametrize("worker_first", [True, False])
async def test_a_session_that_expired_before_a_sweep_is_found_once_and_not_written(
    engine: Engine, whose: str, worker_first: bool
) -> None:
    session = a_session(lifetime=10 * MINUTE)
    await engine.add(session)
    found: list[SessionEnded] = []
    if worker_first:
        found += (await engine.upkeep.end_overdue(NOW, 10, named=True)).ended
    if whose == "hers":
        await engine.sweep("ann", START + 11 * MINUTE)
    else:
        await engine.sweep_everybody(START + 11 * MINUTE)
    [sweep] = await engine.upkeep.pending_sweeps(10)
    assert await engine.upkeep.count_swept(sweep, 10) == 0
    for batch in await settle(engine, sweep, NOW, 10):
        assert not batch.left
        found += batch.ended
    found += (await engine.upkeep.end_overdue(NOW, 10, named=True)).ended
    expired = Ending(START + 10 * MINUTE, EXPIRED, POLICY)
    assert found == [SessionEnded(session.session_id, "ann", expired)]
    assert await recorded(engine, session) is None
    assert await ending(engine, session) == expired


async def test_overdue_sessions_are_counted_up_to_a_limit_and_the_oldest_is_dated(
    engine: Engine,
) -> None:
    assert await engine.upkeep.count_overdue(NOW, 10) == 0
    assert await engine.upkeep.oldest_overdue(NOW) is None
    await engine.add(*(a_session(lifetime=(n + 1) * MINUTE) for n in range(5)), a_session())
    assert await engine.upkeep.count_overdue(NOW, 10) == 5
    assert await engine.upkeep.count_overdue(NOW, 3) == 3
    assert await engine.upkeep.count_overdue(START + 2 * MINUTE, 10) == 2
    assert await engine.upkeep.oldest_overdue(NOW) == START + MINUTE
    await engine.upkeep.end_overdue(NOW, 2, named=True)
    assert await engine.upkeep.oldest_overdue(NOW) == START + 3 * MINUTE
