"""No event is lost, invented or overtaken while server, workers and receiver are killed at random."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from session_authority_server.store.database import Database
from tests.integration.event_history import check_arrivals, check_events, check_replay
from tests.integration.event_scene import Scene
from tests.support.engines import migrated_postgresql, migrated_sqlite
from tests.support.program import DATABASE
from tests.support.soak import soaked
from tests.support.waiting import PATIENCE_SECONDS

ROUNDS = soaked(long=200, short=3)


@asynccontextmanager
async def opened(engine: str, folder: Path) -> AsyncIterator[Scene]:
    """Open a database with a receiver of all events."""
    if engine == "sqlite":
        database = await migrated_sqlite(folder / DATABASE)
        try:
            yield Scene(folder, database, {})
        finally:
            await database.close()
        return
    with migrated_postgresql() as url:
        database = Database.postgresql(url)
        try:
            yield Scene(folder, database, {"SESSION_AUTHORITY_DATABASE_URL": url})
        finally:
            await database.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        while not await holds():
            await asyncio.sleep(0.1)


@pytest.mark.soak
@pytest.mark.untraced
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_every_committed_event_arrives_in_order_whatever_is_killed(
    engine: str, tmp_path: Path
) -> None:
    async with opened(engine, tmp_path) as scene:
        await scene.add_receiver()
        await scene.start(*scene.names)
        try:
            async with scene.load():
                for _ in range(ROUNDS):
                    await until(scene.delivers())
                    await asyncio.sleep(random.uniform(0, 0.5))
                    victims = random.sample(scene.names, random.choice((1, 1, 2, 3, 4)))
                    await scene.kill(*victims)
                    await asyncio.sleep(random.uniform(0, 0.3))
                    await scene.start(*victims)
            await scene.kill("server")  # so that no call that clients gave up changes the truth
            await until(scene.all_delivered)
            truth = await scene.truth()
            check_events(truth)
            check_arrivals(scene.arrived(), truth.events)

            before = len(scene.arrived())
            await scene.replay()
            await until(scene.all_delivered)
            check_replay(scene.arrived()[before:], truth.events)
        finally:
            scene.close()
        assert "Traceback" not in scene.log
        assert not [each for each in scene.secrets if each in scene.log]
