"""Ending the sessions that one API key created."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import first_id
from session_authority_server.ports.store import KeyBatch
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, numbered

NOW = START + DAY
REVOKED = Ending(NOW, EndReason.REVOKED, InitiatingEntity.ADMIN)


def created_by(by: str, number: int, **how: object) -> Session:
    return replace(a_session(**how), created_by=by, session_id=numbered(number))  # type: ignore[arg-type]


def endings_of(*some: Session) -> Sequence[SessionEnded]:
    return [SessionEnded(each.session_id, each.user_id, REVOKED) for each in some]


async def end(engine: Engine, after: UUID, limit: int) -> KeyBatch:
    batch = await engine.sessions.transact(
        lambda transaction: transaction.end_created_by("key", NOW, after, limit, REVOKED)
    )
    return replace(batch, ended=sorted(batch.ended, key=lambda each: each.session_id))


async def test_the_sessions_of_a_key_are_ended_in_batches_in_the_order_of_ids(
    engine: Engine,
) -> None:
    one, two, three = (
        created_by("key", 1),
        created_by("key", 4, user_id="bob"),
        created_by("key", 6),
    )
    others = [created_by("", 2), created_by("other", 3), created_by("Key", 5)]
    await engine.add(one, two, three, *others)
    assert await end(engine, numbered(0), 3) == KeyBatch(endings_of(one), numbered(3))
    assert await end(engine, numbered(3), 3) == KeyBatch(endings_of(two, three), numbered(6))
    assert await end(engine, numbered(6), 3) == KeyBatch([], None)
    for each in (one, two, three):
        assert (await engine.get(each.session_id)).ending == REVOKED
    for each in others:
        assert (await engine.get(each.session_id)).ending is None


async def test_a_session_that_had_already_ended_keeps_its_ending(engine: Engine) -> None:
    expired, swept = created_by("key", 1, lifetime=MINUTE), created_by("key", 2, user_id="bob")
    await engine.add(expired, swept)
    await engine.sweep("bob", START + SECOND)
    assert (await end(engine, numbered(0), 10)) == KeyBatch([], None)
    for each in (expired, swept):
        assert (await engine.get(each.session_id)).ending is None


async def test_an_id_limits_the_batch_to_sessions_created_since_a_time(engine: Engine) -> None:
    before, after = a_session(at=START), a_session(at=START + SECOND)
    before, after = replace(before, created_by="key"), replace(after, created_by="key")
    await engine.add(before, after)
    assert await end(engine, first_id(START + SECOND), 10) == KeyBatch(endings_of(after), None)
