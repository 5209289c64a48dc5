"""A replay ends what the audit log names as ended and the database lacks, and nothing else."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.event import (
    KeyExpirySet,
    KeyRevoked,
    SessionEnded,
    SessionsSwept,
)
from session_authority_server.domain.liveness import is_live
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import (
    Ending,
    EndReason,
    InitiatingEntity,
    Session,
    Sweep,
)
from session_authority_server.store.tables import users
from session_authority_server.usecases.erase_user import ERASURE_REASON
from session_authority_server.usecases.replay import LoggedEvent, Replayed, TokenReplaced, replay
from tests.contract.test_keys import a_key
from tests.contract.transacting import end
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine, a_session
from tests.support.usecases import UseCases

NOW = START + DAY
T = START + MINUTE
BY_USER = InitiatingEntity.USER


async def replayed(engine: Engine, *events: LoggedEvent) -> Replayed:
    context = UseCases(engine.sessions, ManualClock(NOW), Policy()).context
    first = await replay(context, engine.keys, events)
    again = await replay(context, engine.keys, events)
    assert again == Replayed(), "a second replay changes nothing"
    return first


async def live(engine: Engine, *sessions: Session) -> list[bool]:
    return [is_live(await engine.get(each.session_id), NOW) for each in sessions]


def ended(session: Session, time: datetime = T) -> SessionEnded:
    ending = Ending(time, EndReason.SIGNED_OUT, BY_USER)
    return SessionEnded(session.session_id, session.user_id, ending)


def swept(user_id: str, kept: Session | None = None, why: str = "") -> SessionsSwept:
    kept_id = None if kept is None else kept.session_id
    return SessionsSwept(user_id, Sweep(T, BY_USER, why), kept_id, why)


async def test_sessions_that_ended_end_again_as_they_did(engine: Engine) -> None:
    one, two, other = await engine.add(a_session(), a_session(), a_session("bob"))
    await end(engine, two)
    gone = a_session("cy")
    assert await replayed(engine, *map(ended, (one, two, gone))) == Replayed(sessions=1)
    assert await live(engine, one, two, other) == [False, False, True]
    assert (await engine.get(one.session_id)).ending == ended(one).ending


async def test_the_token_before_a_re_authentication_is_not_accepted(engine: Engine) -> None:
    lost, had = await engine.add(a_session(), a_session("bob"))
    events: list[LoggedEvent] = [
        TokenReplaced(lost.session_id, T),
        TokenReplaced(had.session_id, START),
    ]
    assert await replayed(engine, *events) == Replayed(sessions=1)
    assert await live(engine, lost, had) == [False, True]


async def test_a_lost_sweep_ends_the_users_sessions_except_the_kept_one(engine: Engine) -> None:
    kept, one, other = await engine.add(a_session(), a_session(), a_session("bob"))
    assert await replayed(engine, swept("ann", kept)) == Replayed(sweeps=1)
    assert await live(engine, kept, one, other) == [True, False, True]


@pytest.mark.parametrize("order", [1, -1])
async def test_a_kept_session_that_ended_later_is_ended(engine: Engine, order: int) -> None:
    [kept] = await engine.add(a_session())
    events: list[LoggedEvent] = [swept("ann", kept), ended(kept, T + SECOND)]
    await replayed(engine, *events[::order])
    assert await live(engine, kept) == [False]


async def test_a_sweep_that_the_database_has_ends_no_later_session(engine: Engine) -> None:
    await engine.sweep("ann", T)
    await engine.sweep_everybody(T)
    [later] = await engine.add(a_session(at=T + SECOND))
    assert await replayed(engine, swept("ann"), swept("")) == Replayed()
    assert await live(engine, later) == [True]


async def test_a_lost_sweep_of_everybody_ends_every_session(engine: Engine) -> None:
    both = await engine.add(a_session(), a_session("bob"))
    assert await replayed(engine, swept("")) == Replayed(sweeps=1)
    assert await live(engine, *both) == [False, False]


async def test_a_lost_erasure_begins_again(engine: Engine) -> None:
    await engine.add(a_session())
    await replayed(engine, swept("ann", why=ERASURE_REASON))
    [erasure] = await engine.upkeep.pending_erasures(10)
    assert (await engine.sessions.erase_some(erasure, 10)).complete
    assert await replayed(engine, swept("ann", why=ERASURE_REASON)) == Replayed()
    assert await engine.upkeep.pending_erasures(10) == []
    users_left = await engine.database.read(lambda connection: connection.scalars(select(users)))
    assert users_left.all() == []


async def test_keys_end_again(engine: Engine) -> None:
    revoked, shortened, kept = (a_key(each) for each in ("revoked", "shortened", "kept"))
    for each in (revoked, shortened, kept):
        await engine.keys.add_key(each)
    expire_time = START + timedelta(hours=1)
    events: list[LoggedEvent] = [
        KeyRevoked(str(revoked.key_id), T),
        KeyExpirySet(str(shortened.key_id), expire_time, T),
    ]
    assert await replayed(engine, *events) == Replayed(keys=1)
    found = {each.key_id: each for each in await engine.keys.read_keys()}
    assert found[revoked.key_id] == replace(revoked, revoke_time=T)
    assert found[shortened.key_id].expire_time == expire_time
    assert found[kept.key_id] == kept
