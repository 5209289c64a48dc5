"""Sessions beyond a user's limit."""

from uuid import UUID

from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
)
from session_authority_server.ports.store import Transaction
from tests.contract.transacting import end
from tests.support.engines import (
    SECOND,
    START,
    Engine,
    a_session,
    ids,
    numbered,
    stored_fields,
)

LIMIT = Ending(START + 5 * SECOND, EndReason.LIMIT, InitiatingEntity.POLICY)


# Counting


async def test_the_least_recently_active_live_sessions_are_over_the_limit(engine: Engine) -> None:
    sessions = [a_session(last_active=START + n * SECOND) for n in (3, 1, 4, 2)]
    ended = a_session(last_active=START + 9 * SECOND)
    expired = a_session(last_active=START + 8 * SECOND, lifetime=SECOND)
    strange = a_session("bob")
    await engine.add(*sessions, ended, expired, strange)
    await end(engine, ended)

    async def beyond(keep: int) -> list[UUID]:
        async def work(transaction: Transaction) -> list[UUID]:
            now = START + 5 * SECOND
            return list(await transaction.live_over_limit("ann", now, keep))

        return await engine.sessions.transact(work)

    assert set(await beyond(2)) == {sessions[1].session_id, sessions[3].session_id}
    assert set(await beyond(0)) == set(ids(sessions))
    assert await beyond(4) == []


async def test_lower_ids_are_over_the_limit_first_among_equally_active_sessions(
    engine: Engine,
) -> None:
    await engine.add(*(a_session(session_id=numbered(number)) for number in (2, 1, 3)))

    async def work(transaction: Transaction) -> list[UUID]:
        return list(await transaction.live_over_limit("ann", START, 1))

    assert set(await engine.sessions.transact(work)) == {numbered(1), numbered(2)}


async def test_ending_sessions_over_a_limit_ends_no_other_session(engine: Engine) -> None:
    sessions = [a_session(last_active=START + n * SECOND) for n in (3, 1, 4, 2)]
    ended = a_session(last_active=START + 9 * SECOND)
    expired = a_session(lifetime=SECOND)
    strange = a_session("bob")
    await engine.add(*sessions, ended, expired, strange)
    await end(engine, ended)
    untouched = [stored_fields(await engine.get(each)) for each in ids([ended, expired, strange])]
    assert set(await end_beyond(engine, 2)) == {sessions[1].session_id, sessions[3].session_id}
    assert [(await engine.get(each)).ending for each in ids(sessions)] == [None, LIMIT, None, LIMIT]
    assert [
        stored_fields(await engine.get(each)) for each in ids([ended, expired, strange])
    ] == untouched
    assert await end_beyond(engine, 2) == []
    assert set(await end_beyond(engine, 0)) == {sessions[0].session_id, sessions[2].session_id}


async def end_beyond(engine: Engine, keep: int) -> list[UUID]:
    async def work(transaction: Transaction) -> list[UUID]:
        await transaction.lock_user("ann")
        return list(await transaction.end_live_over_limit("ann", START + 5 * SECOND, keep, LIMIT))

    return await engine.sessions.transact(work)
