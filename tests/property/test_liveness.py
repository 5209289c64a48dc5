"""The database and the domain agree which sessions are live and how the others ended."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from session_authority_server.domain.liveness import ending_of, is_live
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.store import liveness as in_sql
from session_authority_server.store.tables import (
    EVERYBODY,
    attempts,
    authority,
    sessions,
    sweeps,
    upkeep,
    users,
)
from tests.property.conftest import Bench
from tests.support.engines import (
    SECOND,
    START,
    Engine,
    a_session,
    numbered,
    stored_fields,
    sweep_row,
)
from tests.support.soak import soaked

USERS = ("ann", "bob")
# Few different seconds, so that times are often equal.
ticks = st.integers(0, 14)
entities = st.sampled_from(InitiatingEntity)
endings = st.builds(
    Ending, ticks.map(lambda tick: START + tick * SECOND), st.sampled_from(EndReason), entities
)


WORLD_SIZE = 1_000
_world_numbers = count(1)


@dataclass(frozen=True)
class World:
    """The contents of the tables. A sweep has a time and an initiator. The first sweep has epoch 1."""

    sessions: list[Session]
    sweeps: dict[str, list[tuple[datetime, InitiatingEntity]]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    sweep = st.tuples(ticks.map(lambda tick: START + tick * SECOND), entities)
    made = {name: draw(st.lists(sweep, max_size=3)) for name in (*USERS, EVERYBODY)}

    @st.composite
    def session(draw: st.DrawFn) -> Session:
        user_id = draw(st.sampled_from(USERS))
        made_at = draw(ticks)
        idle = draw(st.none() | st.integers(1, 8))
        session = a_session(
            user_id,
            at=START + made_at * SECOND,
            last_active=START + (made_at + draw(ticks)) * SECOND,
            lifetime=draw(st.integers(1, 14)) * SECOND,
            idle_timeout=None if idle is None else idle * SECOND,
        )
        return replace(
            session,
            user_epoch=len(made[user_id]) - draw(st.integers(0, len(made[user_id]))),
            global_epoch=len(made[EVERYBODY]) - draw(st.integers(0, len(made[EVERYBODY]))),
            ending=draw(st.none() | st.none() | endings),
        )

    drawn = draw(st.lists(session(), max_size=50))
    numbers = draw(st.permutations(range(1, len(drawn) + 1)))
    return World(
        [replace(each, session_id=numbered(n)) for each, n in zip(drawn, numbers, strict=True)],
        made,
    )


async def put(engine: Engine, world: World) -> None:
    """Replace the contents of the tables with a world.

    The sessions get new ids in the same order, since a store may assume that no id is reused.
    """
    world_number = next(_world_numbers)
    for session in world.sessions:
        session.session_id = UUID(
            int=world_number * WORLD_SIZE + session.session_id.int % WORLD_SIZE
        )
    await engine.execute(
        *(delete(table) for table in (sessions, users, sweeps, attempts)),
        update(upkeep).values(expired_until=datetime.fromtimestamp(0, UTC), expired_id=UUID(int=0)),
    )
    # The worker's first check is the one set at creation, before any use.
    looked_at = [
        min(
            replace(each, last_active_time=each.create_time).idle_expire_time or each.expire_time,
            each.expire_time,
        )
        for each in world.sessions
    ]
    earliest = min(looked_at, default=None)
    await engine.fill(world.sessions, earliest)
    rows = [
        sweep_row(user_id, epoch, time, by)
        for user_id, made in world.sweeps.items()
        for epoch, (time, by) in enumerate(made, start=1)
    ]
    await engine.execute(
        update(authority).values(epoch=len(world.sweeps[EVERYBODY])),
        *(
            update(users).where(users.c.user_id == name).values(epoch=len(world.sweeps[name]))
            for name in USERS
        ),
        *([insert(sweeps).values(rows)] if rows else []),
    )


async def read_all(engine: Engine, world: World) -> dict[UUID, Session]:
    return await engine.sessions.read_sessions([each.session_id for each in world.sessions])


async def assert_agreement(
    engine: Engine, held: dict[UUID, Session], now: datetime, page: int
) -> None:
    """Compare the answer of every read of the store with the domain's answer."""
    live = {session_id for session_id, session in held.items() if is_live(session, now)}

    async def selected(connection: object) -> set[UUID]:
        statement = select(sessions.c.session_id).where(in_sql.is_live(now))
        return set((await connection.execute(statement)).scalars())  # type: ignore[attr-defined]

    assert await engine.database.read(selected) == live
    for name in USERS:
        his = [session for session in held.values() if session.user_id == name]
        by_activity = sorted(
            (each for each in his if each.session_id in live),
            key=lambda each: (each.last_active_time, each.session_id),
            reverse=True,
        )
        listed = await engine.sessions.list_live(name, now, None, page)
        assert [stored_fields(each) for each in listed] == [
            stored_fields(each) for each in by_activity[:page]
        ]
        ended = [
            (ending.time, each.session_id, ending)
            for each in his
            if (ending := ending_of(each, now)) is not None
        ]
        ended.sort(key=lambda each: each[:2], reverse=True)
        listed = await engine.sessions.list_ended(name, now, None, page)
        assert [(each.session_id, ending_of(each, now)) for each in listed] == [
            (session_id, ending) for _, session_id, ending in ended[:page]
        ]


_settings = settings(
    max_examples=soaked(long=1_000, short=20),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_given = given(
    worlds(),
    st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True).map(sorted),
    st.integers(1, 60),
)


@pytest.mark.soak
@_settings
@_given
def test_sqlite_and_the_domain_agree_before_and_after_the_worker(
    sqlite_bench: Bench, world: World, instants: list[int], page: int
) -> None:
    sqlite_bench.run(lambda engine: check_agreement(engine, world, instants, page))


@pytest.mark.soak
@settings(_settings, max_examples=soaked(long=300, short=8))
@_given
def test_postgresql_and_the_domain_agree_before_and_after_the_worker(
    postgresql_bench: Bench, world: World, instants: list[int], page: int
) -> None:
    postgresql_bench.run(lambda engine: check_agreement(engine, world, instants, page))


async def check_agreement(engine: Engine, world: World, instants: list[int], page: int) -> None:
    """Fill a store with a world, and compare it with the domain at some instants."""
    await put(engine, world)
    held = await read_all(engine, world)
    assert len(held) == len(world.sessions)
    found: set[UUID] = set()
    for instant in instants:
        now = START + instant * SECOND
        await assert_agreement(engine, held, now, page)
        found |= await run_worker(engine, held, found, now, page)
        # Recording the endings changes no answer, before or after that time.
        after = await read_all(engine, world)
        for later in (now, now + SECOND, START + 100 * SECOND):
            assert {each: ending_of(session, later) for each, session in after.items()} == {
                each: ending_of(session, later) for each, session in held.items()
            }
        await assert_agreement(engine, after, now, page)


async def run_worker(
    engine: Engine, held: dict[UUID, Session], found_before: set[UUID], now: datetime, limit: int
) -> set[UUID]:
    """Run the worker until nothing is due, compare its report with the domain's endings, and return the report."""
    ended: dict[UUID, Ending] = {}

    def note(some: object) -> None:
        for each in some:  # type: ignore[attr-defined]
            assert each.session_id not in ended
            assert each.session_id not in found_before
            assert each.user_id == held[each.session_id].user_id
            ended[each.session_id] = each.ending

    while (batch := await engine.upkeep.end_overdue(now, limit, named=True)).examined:
        note(batch.ended)
    assert await engine.upkeep.count_overdue(now, 1) == 0
    for sweep in await engine.upkeep.pending_sweeps(100):
        after: UUID | None = None
        while True:
            batch_swept = await engine.upkeep.end_swept(sweep, now, after, limit)
            note(batch_swept.ended)
            after = batch_swept.last
            if after is None:
                break
    # No live session, no duplicate and no omission.
    for session_id, ending in ended.items():
        assert ending == ending_of(held[session_id], now)
    already = {session_id for session_id in held if held[session_id].ending is not None}
    assert already.isdisjoint(ended)
    dead = {session_id for session_id in held if not is_live(held[session_id], now)}
    # A clock ahead of the worker's swept the session, which had expired before. It is found by the time of the sweep.
    later = {session_id for session_id in dead - already if expires_after(held[session_id], now)}
    assert dead - later <= already | found_before | set(ended) <= dead
    # An expiry is implied by the row, so it is not recorded.
    recorded = await engine.sessions.read_sessions(list(held))
    left = {session_id for session_id in dead if recorded[session_id].ending is None}
    for session_id in left:
        assert ending_of(held[session_id], now) == Ending(
            held[session_id].expire_time, EndReason.EXPIRED, InitiatingEntity.POLICY
        )
    return set(ended)


def expires_after(session: Session, now: datetime) -> bool:
    ending = ending_of(session, now)
    return ending is not None and ending.reason is EndReason.EXPIRED and ending.time > now


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_sweep_without_a_recorded_time_ends_sessions_now(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Such a sweep should not exist. If it does, both agree, and no swept session is live."""
    bench: Bench = request.getfixturevalue(f"{kind}_bench")
    session = a_session("ann", session_id=numbered(1))
    now = START + SECOND

    async def check(engine: Engine) -> None:
        await put(engine, World([session], {name: [] for name in (*USERS, EVERYBODY)}))
        await engine.execute(update(users).values(epoch=7))
        held = await read_all(engine, World([session], {}))
        undated = Ending(now, EndReason.REVOKED, InitiatingEntity.SYSTEM)
        assert ending_of(held[session.session_id], now) == undated
        await assert_agreement(engine, held, now, 10)

    bench.run(check)
