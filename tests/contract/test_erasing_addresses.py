"""Erasing a session's addresses and user agent when it ends."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.event import SessionEnded
from session_authority_server.domain.liveness import ending_of
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.ports.store import Transaction
from session_authority_server.ports.upkeep import PendingSweep
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from tests.support.engines import MINUTE, SECOND, START, Engine, a_session

NOW = START + 60 * MINUTE
DEVICE = Device("Firefox", "143.0", "Windows", "11", DeviceType.DESKTOP)
ENDING = Ending(NOW, EndReason.SIGNED_OUT, InitiatingEntity.USER)


def a_session_with_user_agent(user_id: str = "ann", **said: object) -> Session:
    session = a_session(user_id, **said)  # type: ignore[arg-type]
    return replace(session, device=DEVICE, user_agent="Mozilla/5.0 of Ann's")


async def addresses_and_device(engine: Engine, session: Session) -> tuple[object, ...]:
    found = await engine.get(session.session_id)
    return (
        found.ip_address,
        found.last_ip_address,
        await engine.user_agent(session.session_id),
        found.device,
    )


KEPT = ("192.0.2.1", "192.0.2.1", "Mozilla/5.0 of Ann's", DEVICE)
ERASED = (None, None, "", Device("Firefox", "", "Windows", "", DeviceType.DESKTOP))


class Erasing:
    def __init__(self, engine: Engine, *, erases: bool) -> None:
        self.sessions = SqlSessionStore(engine.database, erases_at_end=erases)
        self.upkeep = SqlUpkeepStore(engine.database, erases_at_end=erases)

    async def sign_out(self, session: Session) -> None:
        async def work(transaction: Transaction) -> None:
            assert await transaction.end_session(session.session_id, ENDING)

        await self.sessions.transact(work)

    async def limit(self, user_id: str) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.lock_user(user_id)
            assert await transaction.end_live_over_limit(user_id, START, 0, ENDING)

        await self.sessions.transact(work)


@pytest.mark.parametrize("erases", [True, False])
async def test_ending_a_session_erases_its_addresses_if_configured(
    engine: Engine, erases: bool
) -> None:
    signed_out, beyond, alive = (
        a_session_with_user_agent(),
        a_session_with_user_agent("bob"),
        a_session_with_user_agent("cid"),
    )
    await engine.add(signed_out, beyond, alive)
    stores = Erasing(engine, erases=erases)
    await stores.sign_out(signed_out)
    await stores.limit("bob")
    assert await addresses_and_device(engine, signed_out) == (ERASED if erases else KEPT)
    assert await addresses_and_device(engine, beyond) == (ERASED if erases else KEPT)
    assert await addresses_and_device(engine, alive) == KEPT


@pytest.mark.parametrize("whose", ["hers", "everybody's"])
async def test_recording_the_endings_of_a_sweep_erases_addresses(
    engine: Engine, whose: str
) -> None:
    swept, spared = a_session_with_user_agent(), a_session_with_user_agent("bob")
    await engine.add(swept, spared)
    if whose == "hers":
        await engine.sweep("ann", START + MINUTE)
        pending = PendingSweep("ann", 1)
    else:
        await engine.sweep_everybody(START + MINUTE)
        pending = PendingSweep("", 1)
        spared = a_session_with_user_agent("cid")
        await engine.add(spared)
    upkeep = Erasing(engine, erases=True).upkeep
    batch = await upkeep.end_swept(pending, NOW, None, 100)
    assert swept.session_id in [each.session_id for each in batch.ended]
    assert await addresses_and_device(engine, swept) == ERASED
    assert await addresses_and_device(engine, spared) == KEPT


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("idle_timeout", "reason"),
    [(None, EndReason.EXPIRED), (5 * MINUTE, EndReason.IDLE_TIMEOUT)],
)
async def test_expired_sessions_are_recorded_and_lose_their_addresses(
    engine: Engine, idle_timeout: timedelta | None, reason: EndReason, named: bool
) -> None:
    sessions = [
        a_session_with_user_agent(lifetime=10 * MINUTE + n * SECOND, idle_timeout=idle_timeout)
        for n in range(7)
    ]
    alive = a_session_with_user_agent("bob")
    await engine.add(*sessions, alive)
    upkeep = Erasing(engine, erases=True).upkeep
    found: list[SessionEnded] = []
    while (batch := await upkeep.end_overdue(NOW, 3, named=named)).examined:
        assert batch.count == batch.examined == len(batch.ended)
        found += batch.ended
    endings = {each.session_id: each.ending for each in found}
    assert len(found) == len(endings) == len(sessions)
    for session in sessions:
        assert await addresses_and_device(engine, session) == ERASED
        recorded = (await engine.get(session.session_id)).ending
        assert recorded is not None
        assert recorded == endings[session.session_id]
        assert recorded.reason is reason
    assert await addresses_and_device(engine, alive) == KEPT
    assert (await upkeep.end_overdue(NOW, 3)).examined == 0


async def test_a_large_batch_loses_all_its_addresses(engine: Engine) -> None:
    sessions = [a_session_with_user_agent(f"user-{n % 7}", lifetime=MINUTE) for n in range(1_100)]
    await engine.fill(sessions)
    upkeep = Erasing(engine, erases=True).upkeep
    ended = 0
    while (batch := await upkeep.end_overdue(NOW, 20_000)).examined:
        ended += batch.count
    assert ended == 1_100
    for session in (sessions[0], sessions[-1]):
        assert await addresses_and_device(engine, session) == ERASED


async def test_a_session_that_is_checked_but_live_keeps_its_addresses(engine: Engine) -> None:
    session = a_session_with_user_agent(idle_timeout=30 * MINUTE)
    used = replace(session, last_active_time=NOW)
    await engine.fill([used], check_time=START + 30 * MINUTE)
    batch = await Erasing(engine, erases=True).upkeep.end_overdue(NOW, 10)
    assert (batch.count, batch.examined) == (0, 1)
    assert await addresses_and_device(engine, session) == KEPT


# Callbacks


async def test_the_callback_gets_each_committed_batch(engine: Engine) -> None:
    session, swept = a_session(lifetime=MINUTE), a_session("bob")
    await engine.add(session, swept)
    await engine.sweep("bob", START)
    committed: list[object] = []
    batch = await engine.upkeep.end_overdue(NOW, 10, named=True, committed=committed.append)
    swept_batch = await engine.upkeep.end_swept(
        PendingSweep("bob", 1), NOW, None, 10, committed=committed.append
    )
    assert committed == [batch, swept_batch]
    ended: Sequence[SessionEnded] = [*batch.ended, *swept_batch.ended]
    assert [each.session_id for each in ended] == [session.session_id, swept.session_id]
    for each in ended:
        assert each.ending == ending_of(await engine.get(each.session_id), NOW)
