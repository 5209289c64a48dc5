import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.retry import AnsweredAttempt
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.domain.token import hash_secret
from session_authority_server.store.protocol import Transaction, UserStanding
from tests.support.engines import (
    DAY,
    MINUTE,
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    numbered,
    told,
)

REVOKED = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.USER)
LIMIT = Ending(START + 5 * SECOND, EndReason.LIMIT, InitiatingEntity.POLICY)
EXPIRED = Ending(START + MINUTE, EndReason.EXPIRED, InitiatingEntity.POLICY)


class Refused(Exception):
    pass


async def end(engine: Engine, session: Session, ending: Ending = REVOKED) -> bool:
    async def work(transaction: Transaction) -> bool:
        return await transaction.end_session(session.session_id, ending)

    return await engine.sessions.transact(work)


async def standing_of(engine: Engine, user_id: str) -> UserStanding:
    return await engine.sessions.transact(lambda transaction: transaction.lock_user(user_id))


async def read_attempt(engine: Engine, retry_hash: bytes) -> AnsweredAttempt | None:
    return await engine.sessions.transact(lambda work: work.read_attempt(retry_hash))


async def write_attempt(engine: Engine, attempt: AnsweredAttempt) -> None:
    await engine.sessions.transact(lambda work: work.write_attempt(attempt))


# All or nothing


async def test_a_transaction_returns_what_its_work_returned(engine: Engine) -> None:
    async def work(_transaction: Transaction) -> str:
        return "done"

    assert await engine.sessions.transact(work) == "done"


async def test_work_that_raises_undoes_all_that_it_did(engine: Engine) -> None:
    kept, fresh = a_session(), a_session()
    attempt = AnsweredAttempt(b"h" * 32, b"p" * 32, kept.session_id, b"s" * 32, START + MINUTE)
    await engine.add(kept)

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("somebody new")
        await transaction.insert_session(fresh)
        await transaction.end_session(kept.session_id, REVOKED)
        await transaction.sweep_user("ann", Sweep(START, InitiatingEntity.USER))
        await transaction.write_attempt(attempt)
        raise Refused

    with pytest.raises(Refused):
        await engine.sessions.transact(work)
    assert set(await engine.sessions.read_sessions(ids([kept, fresh]))) == {kept.session_id}
    assert is_live(await engine.get(kept.session_id), START)
    assert await read_attempt(engine, attempt.retry_hash) is None
    assert await engine.upkeep.pending_sweeps(10) == []
    assert await standing_of(engine, "ann") == UserStanding(None)


async def test_a_transaction_after_one_that_raised_works(engine: Engine) -> None:
    async def work(_transaction: Transaction) -> None:
        raise Refused

    for _ in range(3):
        with pytest.raises(Refused):
            await engine.sessions.transact(work)
    session = a_session()
    await engine.add(session)
    assert told(await engine.get(session.session_id)) == told(session)


async def test_a_transaction_sees_its_own_changes_and_nobody_else_does(engine: Engine) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> tuple[Session | None, dict[UUID, Session]]:
        await transaction.lock_user("ann")
        await transaction.insert_session(session)
        outside = await engine.sessions.read_sessions([session.session_id])
        return await transaction.read_session(session.session_id), outside

    inside, outside = await engine.sessions.transact(work)
    assert told(inside) == told(session)
    assert outside == {}


async def test_a_commit_happens_although_its_caller_was_cancelled(engine: Engine) -> None:
    session = a_session()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        begun.set()
        await go_on.wait()
        await transaction.insert_session(session)

    caller = asyncio.create_task(engine.sessions.transact(work))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await standing_of(engine, "ann")  # waits for its turn behind the other
    assert told(await engine.get(session.session_id)) == told(session)


async def test_closing_waits_for_a_commit_whose_caller_was_cancelled(engine: Engine) -> None:
    session = a_session()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        begun.set()
        await go_on.wait()
        await transaction.insert_session(session)

    caller = asyncio.create_task(engine.sessions.transact(work))
    await begun.wait()
    caller.cancel()
    closing = asyncio.create_task(engine.database.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    go_on.set()
    await closing
    assert told(await engine.get(session.session_id)) == told(session)


async def test_callers_that_are_cancelled_at_any_point_leave_the_store_working(
    engine: Engine,
) -> None:
    for delay in (0, 0.0005, 0.001, 0.002, 0.004):
        callers = [asyncio.create_task(engine.add(a_session())) for _ in range(4)]
        await asyncio.sleep(delay)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    session = a_session("bob")
    await engine.add(session)
    assert told(await engine.get(session.session_id)) == told(session)


# Users


async def test_a_user_who_was_never_swept_stands_so(engine: Engine) -> None:
    assert await standing_of(engine, "ann") == UserStanding(None)
    assert await standing_of(engine, "ann") == UserStanding(None)


async def test_a_users_standing_is_the_latest_sweep_of_theirs_or_of_everybodys(
    engine: Engine,
) -> None:
    await engine.sweep("ann", START + SECOND)
    assert await standing_of(engine, "ann") == UserStanding(START + SECOND)
    assert await standing_of(engine, "bob") == UserStanding(None)
    await engine.sweep_everybody(START + 2 * SECOND)
    assert await standing_of(engine, "ann") == UserStanding(START + 2 * SECOND)
    assert await standing_of(engine, "bob") == UserStanding(START + 2 * SECOND)
    await engine.sweep("ann", START + 3 * SECOND)
    assert await standing_of(engine, "ann") == UserStanding(START + 3 * SECOND)


async def test_who_locks_a_user_keeps_others_who_do_waiting(engine: Engine) -> None:
    inside = 0

    async def work(transaction: Transaction) -> None:
        nonlocal inside
        await transaction.lock_user("ann")
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.001)
        inside -= 1

    await asyncio.gather(*(engine.sessions.transact(work) for _ in range(20)))


async def test_fifty_sign_ins_at_once_keep_a_limit_exactly(engine: Engine) -> None:
    limit = 7

    async def sign_in() -> bool:
        session = a_session()

        async def work(transaction: Transaction) -> bool:
            await transaction.lock_user("ann")
            if await transaction.live_sessions_beyond("ann", START, keep=limit - 1):
                return False
            await transaction.insert_session(session)
            return True

        return await engine.sessions.transact(work)

    admitted = await asyncio.gather(*(sign_in() for _ in range(50)))
    assert admitted.count(True) == limit
    assert len(await engine.sessions.list_live("ann", START, None, 100)) == limit


# Counting


async def test_all_but_the_most_recently_active_live_sessions_are_beyond(engine: Engine) -> None:
    sessions = [a_session(last_active=START + n * SECOND) for n in (3, 1, 4, 2)]
    ended = a_session(last_active=START + 9 * SECOND)
    expired = a_session(last_active=START + 8 * SECOND, lifetime=SECOND)
    strange = a_session("bob")
    await engine.add(*sessions, ended, expired, strange)
    await end(engine, ended)

    async def beyond(keep: int) -> list[UUID]:
        async def work(transaction: Transaction) -> list[UUID]:
            now = START + 5 * SECOND
            return list(await transaction.live_sessions_beyond("ann", now, keep))

        return await engine.sessions.transact(work)

    assert set(await beyond(2)) == {sessions[1].session_id, sessions[3].session_id}
    assert set(await beyond(0)) == set(ids(sessions))
    assert await beyond(4) == []


async def test_of_equally_active_sessions_those_with_the_lower_ids_are_beyond(
    engine: Engine,
) -> None:
    await engine.add(*(a_session(session_id=numbered(number)) for number in (2, 1, 3)))

    async def work(transaction: Transaction) -> list[UUID]:
        return list(await transaction.live_sessions_beyond("ann", START, 1))

    assert set(await engine.sessions.transact(work)) == {numbered(1), numbered(2)}


async def test_ending_all_beyond_a_number_ends_them_and_nothing_else(engine: Engine) -> None:
    sessions = [a_session(last_active=START + n * SECOND) for n in (3, 1, 4, 2)]
    ended = a_session(last_active=START + 9 * SECOND)
    expired = a_session(lifetime=SECOND)
    strange = a_session("bob")
    await engine.add(*sessions, ended, expired, strange)
    await end(engine, ended)
    untouched = [told(await engine.get(each)) for each in ids([ended, expired, strange])]
    assert set(await end_beyond(engine, 2)) == {sessions[1].session_id, sessions[3].session_id}
    assert [(await engine.get(each)).ending for each in ids(sessions)] == [None, LIMIT, None, LIMIT]
    assert [told(await engine.get(each)) for each in ids([ended, expired, strange])] == untouched
    assert await end_beyond(engine, 2) == []
    assert set(await end_beyond(engine, 0)) == {sessions[0].session_id, sessions[2].session_id}


async def test_fifty_sign_ins_at_once_that_each_end_the_oldest_leave_as_many_as_allowed(
    engine: Engine,
) -> None:
    limit = 3

    async def sign_in(number: int) -> UUID:
        session = a_session(last_active=START + number * SECOND / 100)

        async def work(transaction: Transaction) -> UUID:
            await transaction.lock_user("ann")
            await transaction.end_live_beyond("ann", START + SECOND, limit - 1, LIMIT)
            return (await transaction.insert_session(session)).session_id

        return await engine.sessions.transact(work)

    made = await asyncio.gather(*(sign_in(number) for number in range(50)))
    live = await engine.sessions.list_live("ann", START + SECOND, None, 100)
    assert len(live) == limit
    endings = [(await engine.get(each)).ending for each in made]
    assert endings.count(LIMIT) == 50 - limit
    assert endings.count(None) == limit


async def end_beyond(engine: Engine, keep: int) -> list[UUID]:
    async def work(transaction: Transaction) -> list[UUID]:
        await transaction.lock_user("ann")
        return list(await transaction.end_live_beyond("ann", START + 5 * SECOND, keep, LIMIT))

    return await engine.sessions.transact(work)


# Sessions


async def test_a_new_session_gets_the_epochs_of_its_own_statement(engine: Engine) -> None:
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
    assert told(await engine.get(stale.session_id)) == told(inserted)
    assert is_live(inserted, START)


async def test_a_sign_in_that_meets_a_sweep_of_everybody_is_covered_or_came_after_it(
    engine: Engine,
) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> bool:
        await transaction.lock_user("ann")
        # Where there is one writer, the sweep waits for this transaction; elsewhere it passes it by.
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


async def test_a_session_that_is_renewed_and_ended_at_once_stays_ended(engine: Engine) -> None:
    for _ in range(10):
        session = a_session()
        await engine.add(session)
        _, ended = await asyncio.gather(
            renew(engine, renewed(session, START + SECOND), session.secret_hash),
            end(engine, session),
        )
        assert ended
        assert (await engine.get(session.session_id)).ending == REVOKED


async def test_a_session_inserted_before_a_sweep_in_the_same_transaction_is_covered(
    engine: Engine,
) -> None:
    session = a_session()

    async def work(transaction: Transaction) -> None:
        await transaction.lock_user("ann")
        await transaction.insert_session(session)
        await transaction.sweep_user("ann", Sweep(START, InitiatingEntity.USER))

    await engine.sessions.transact(work)
    assert not is_live(await engine.get(session.session_id), START)


async def test_only_the_first_ending_counts(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    assert await end(engine, session, REVOKED)
    assert not await end(engine, session, EXPIRED)
    assert (await engine.get(session.session_id)).ending == REVOKED


async def test_of_many_endings_at_once_one_counts(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    endings = [
        Ending(START + n * SECOND, EndReason.REVOKED, InitiatingEntity.USER) for n in range(20)
    ]
    counted = await asyncio.gather(*(end(engine, session, ending) for ending in endings))
    assert counted.count(True) == 1
    recorded = (await engine.get(session.session_id)).ending
    assert recorded == endings[counted.index(True)]


async def test_ending_an_unknown_session_ends_nothing(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    assert not await end(engine, replace(session, session_id=uuid4()))
    assert is_live(await engine.get(session.session_id), START)


async def test_reading_an_unknown_session_finds_none(engine: Engine) -> None:
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


async def test_a_renewed_session_has_its_new_secret_methods_and_clocks(engine: Engine) -> None:
    session = a_session(idle_timeout=MINUTE)
    await engine.add(session)
    new = renewed(session, START + 30 * SECOND)
    assert await renew(engine, new, session.secret_hash)
    assert told(await engine.get(session.session_id)) == told(new)
    # and the worker looks at it at its new time
    assert await engine.upkeep.count_overdue(START + 80 * SECOND, 10) == 0
    assert await engine.upkeep.count_overdue(START + 90 * SECOND, 10) == 1


async def test_renewing_a_session_leaves_what_is_kept_of_its_sign_in(engine: Engine) -> None:
    session = replace(a_session(), user_agent="Mozilla/5.0", created_by="key-1")
    await engine.add(session)
    found = await engine.get(session.session_id)
    assert await renew(engine, renewed(found, START + MINUTE), session.secret_hash)
    assert await engine.user_agent(session.session_id) == "Mozilla/5.0"
    assert (await engine.get(session.session_id)).created_by == "key-1"


async def test_a_session_whose_secret_was_replaced_meanwhile_is_not_renewed(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    assert not await renew(engine, renewed(session, START + SECOND), hash_secret(b"o" * 32))
    assert told(await engine.get(session.session_id)) == told(session)


async def test_a_session_that_ended_meanwhile_is_not_renewed(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await end(engine, session)
    assert not await renew(engine, renewed(session, START + SECOND), session.secret_hash)
    assert (await engine.get(session.session_id)).ending == REVOKED


async def test_renewing_does_not_move_a_session_past_a_sweep(engine: Engine) -> None:
    session = a_session()
    await engine.add(session)
    await engine.sweep("ann", START + SECOND)
    await renew(engine, renewed(session, START + MINUTE), session.secret_hash)
    assert not is_live(await engine.get(session.session_id), START + MINUTE)


# Sweeps


async def test_a_sweep_ends_all_that_its_user_has_and_nothing_of_others(engine: Engine) -> None:
    hers = [a_session() for _ in range(5)]
    his = a_session("bob")
    await engine.add(*hers, his)
    await engine.sweep("ann", START + SECOND)
    found = await engine.sessions.read_sessions(ids([*hers, his]))
    assert [is_live(found[each.session_id], START + SECOND) for each in hers] == [False] * 5
    assert is_live(found[his.session_id], START + SECOND)


async def test_a_session_exempt_from_a_sweep_lives_on(engine: Engine) -> None:
    current, other = a_session(), a_session()
    await engine.add(current, other)
    await engine.sweep("ann", START + SECOND, exempt=current.session_id)
    assert is_live(await engine.get(current.session_id), START + SECOND)
    assert not is_live(await engine.get(other.session_id), START + SECOND)


async def test_an_exemption_lasts_until_the_next_sweep(engine: Engine) -> None:
    current = a_session()
    await engine.add(current)
    await engine.sweep("ann", START + SECOND, exempt=current.session_id)
    await engine.sweep("ann", START + 2 * SECOND)
    found = await engine.get(current.session_id)
    assert not is_live(found, START + 2 * SECOND)
    assert found.sweep == Sweep(START + 2 * SECOND, InitiatingEntity.USER)


async def test_a_sign_in_after_a_sweep_lives(engine: Engine) -> None:
    await engine.sweep("ann", START + DAY)
    session = a_session(at=START)  # whatever the clocks say
    await engine.add(session)
    assert is_live(await engine.get(session.session_id), START)


# Repeatable calls


async def test_what_is_kept_of_a_repeatable_call_comes_back(engine: Engine) -> None:
    attempt = AnsweredAttempt(bytes(range(32)), b"\0" * 32, uuid4(), b"\xff" * 32, START + MINUTE)
    assert await read_attempt(engine, attempt.retry_hash) is None
    await write_attempt(engine, attempt)
    assert await read_attempt(engine, attempt.retry_hash) == attempt


async def test_a_later_call_under_the_same_hash_takes_the_place_of_the_earlier(
    engine: Engine,
) -> None:
    first = AnsweredAttempt(b"h" * 32, b"1" * 32, uuid4(), b"1" * 32, START)
    second = AnsweredAttempt(b"h" * 32, b"2" * 32, uuid4(), b"2" * 32, START + DAY)
    await write_attempt(engine, first)
    await write_attempt(engine, second)
    assert await read_attempt(engine, b"h" * 32) == second
