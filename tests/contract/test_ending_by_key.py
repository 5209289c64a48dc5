"""Ending what one API key made."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import first_id
from session_authority_server.ports import KeyBatch
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, numbered

NOW = START + DAY
REVOKED = Ending(NOW, EndReason.REVOKED, InitiatingEntity.ADMIN)


def made(by: str, number: int, **how: object) -> Session:
    return replace(a_session(**how), created_by=by, session_id=numbered(number))  # type: ignore[arg-type]


def told(*some: Session) -> Sequence[SessionEnded]:
    return [SessionEnded(each.session_id, each.user_id, REVOKED) for each in some]


async def end(engine: Engine, after: UUID, limit: int) -> KeyBatch:
    batch = await engine.sessions.transact(
        lambda transaction: transaction.end_created_by("key", NOW, after, limit, REVOKED)
    )
    return replace(batch, ended=sorted(batch.ended, key=lambda each: each.session_id))


async def test_what_a_key_made_is_ended_in_the_order_of_ids_a_few_at_a_time(
    engine: Engine,
) -> None:
    one, two, three = made("key", 1), made("key", 4, user_id="bob"), made("key", 6)
    others = [made("", 2), made("other", 3), made("Key", 5)]
    await engine.add(one, two, three, *others)
    assert await end(engine, numbered(0), 3) == KeyBatch(told(one), numbered(3))
    assert await end(engine, numbered(3), 3) == KeyBatch(told(two, three), numbered(6))
    assert await end(engine, numbered(6), 3) == KeyBatch([], None)
    for each in (one, two, three):
        assert (await engine.get(each.session_id)).ending == REVOKED
    for each in others:
        assert (await engine.get(each.session_id)).ending is None


async def test_what_had_ended_stays_as_it_was(engine: Engine) -> None:
    expired, swept = made("key", 1, lifetime=MINUTE), made("key", 2, user_id="bob")
    await engine.add(expired, swept)
    await engine.sweep("bob", START + SECOND)
    assert (await end(engine, numbered(0), 10)) == KeyBatch([], None)
    for each in (expired, swept):
        assert (await engine.get(each.session_id)).ending is None


async def test_since_a_moment_ids_tell(engine: Engine) -> None:
    before, after = a_session(at=START), a_session(at=START + SECOND)
    before, after = replace(before, created_by="key"), replace(after, created_by="key")
    await engine.add(before, after)
    assert await end(engine, first_id(START + SECOND), 10) == KeyBatch(told(after), None)
