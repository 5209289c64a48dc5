"""A second read of a session returns every change since the first read."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from uuid import UUID

import pytest
from sqlalchemy import update

from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.domain.token import hash_secret, supersede
from session_authority_server.ports.store import Touch
from session_authority_server.store import rows
from session_authority_server.store.tables import sessions as sessions_table
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session, stored_fields

Change = Callable[[Engine, Session], Awaitable[object]]


async def be_used(engine: Engine, session: Session) -> None:
    await engine.sessions.touch(
        [Touch(session.session_id, START + SECOND, None)], lambda: START + SECOND
    )


async def be_used_elsewhere(engine: Engine, session: Session) -> None:
    touch = Touch(session.session_id, START + SECOND, "203.0.113.99")
    await engine.sessions.touch([touch], lambda: START + SECOND)


async def be_ended(engine: Engine, session: Session) -> None:
    ending = Ending(START + SECOND, EndReason.REVOKED, InitiatingEntity.USER)
    await engine.sessions.transact(lambda work: work.end_session(session.session_id, ending))


async def be_swept(engine: Engine, session: Session) -> None:
    await engine.sweep(session.user_id, START + SECOND)


async def be_swept_with_everybody(engine: Engine, session: Session) -> None:
    await engine.sweep_everybody(START + SECOND)


async def be_exempt_from_a_sweep(engine: Engine, session: Session) -> None:
    await engine.sweep(session.user_id, START + SECOND, exempt=session.session_id)


async def be_found_idle(engine: Engine, session: Session) -> None:
    await engine.upkeep.end_overdue(START + MINUTE, 10)


async def be_found_expired(engine: Engine, session: Session) -> None:
    await engine.upkeep.end_overdue(START + 91 * DAY, 10)


async def be_reauthenticated(engine: Engine, session: Session) -> None:
    renewed = replace(
        session,
        secret_hash=hash_secret(b"n" * 32),
        superseded_hashes=supersede(session.secret_hash, session.superseded_hashes),
        authenticate_time=START + SECOND,
        authentication_methods=("otp",),
        last_active_time=START + SECOND,
        expire_time=START + 2 * DAY,
    )
    await engine.sessions.transact(
        lambda work: work.renew_session(renewed, replaces=session.secret_hash)
    )


CHANGES: list[Change] = [
    be_used,
    be_used_elsewhere,
    be_ended,
    be_swept,
    be_swept_with_everybody,
    be_exempt_from_a_sweep,
    be_found_idle,
    be_found_expired,
    be_reauthenticated,
]


async def read_first(engine: Engine, session_id: UUID) -> Session:
    """Read a session without the cache of earlier reads."""
    statement = rows.select_sessions().where(sessions_table.c.session_id == session_id)
    found = await engine.database.read(lambda connection: rows.read(connection, statement))
    return found[0]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
async def test_a_session_that_was_read_before_is_read_in_its_current_state(
    engine: Engine, change: Change
) -> None:
    session = a_session(idle_timeout=MINUTE)
    await engine.add(session, a_session("bob"))
    before = await engine.get(session.session_id)
    assert await engine.get(session.session_id) is not None
    await change(engine, before)
    after = await engine.get(session.session_id)
    assert stored_fields(after) == stored_fields(await read_first(engine, session.session_id))
    assert stored_fields(after) != stored_fields(before)


async def test_more_sessions_than_the_cache_holds_are_not_confused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = engine.database._hot_read
    monkeypatch.setattr(read, "_session", lru_cache(3)(read._decode))
    many = [a_session(f"user-{number}") for number in range(20)]
    await engine.add(*many)
    for _ in range(3):
        found = await engine.sessions.read_sessions([each.session_id for each in many])
        assert {each: found[each].user_id for each in found} == {
            each.session_id: each.user_id for each in many
        }
        assert (await engine.get(many[0].session_id)).user_id == "user-0"


async def test_an_unchanged_session_is_decoded_once(engine: Engine) -> None:
    session, other = a_session(), a_session("bob")
    await engine.add(session, other)
    found = await engine.sessions.read_sessions([session.session_id, other.session_id])
    again = await engine.get(session.session_id)
    assert again is found[session.session_id]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("secret_hash", b"x" * 32),
        ("last_active_time", START + 5 * SECOND),
        ("last_ip_address", "203.0.113.5"),
        ("expire_time", START + 7 * SECOND),
        ("idle_timeout", 90 * SECOND),
        ("user_epoch", 7),
        ("global_epoch", 7),
        ("end_time", START + 9 * SECOND),
    ],
)
async def test_a_column_that_can_change_is_read_every_time(
    engine: Engine, column: str, value: object
) -> None:
    session = a_session(idle_timeout=MINUTE)
    await engine.add(session)
    before = stored_fields(await engine.get(session.session_id))
    await engine.execute(
        update(sessions_table)
        .where(sessions_table.c.session_id == session.session_id)
        .values(
            {
                column: value,
                "end_reason": EndReason.REVOKED,
                "initiating_entity": InitiatingEntity.USER,
            }
        )
    )
    after = stored_fields(await engine.get(session.session_id))
    assert after != before
    assert after == stored_fields(await read_first(engine, session.session_id))
