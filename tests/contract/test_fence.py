"""Endings are marked in the database and outside it, and the fence notices marks that the database lacks."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, func, select

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import EndingsLost, StoreUnavailable
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import Transaction
from session_authority_server.store import lost_endings
from session_authority_server.store.database import Database
from session_authority_server.store.fence import Fence, Mark
from session_authority_server.store.lost_endings import (
    EXTRA_MARKS_LIMIT,
    LostEndings,
    read_recorded,
    resolve,
)
from session_authority_server.store.state_directory import StateDirectory
from session_authority_server.store.tables import ending_marks
from tests.contract.test_announcing import ANNOUNCED, KEY, SILENT, Work
from tests.contract.test_keys import a_key
from tests.contract.transacting import end
from tests.support.engines import MINUTE, START, Engine, a_session


@contextmanager
def a_fence(folder: Path) -> Iterator[Fence]:
    """Give the fence of one process."""
    directory = StateDirectory(folder)
    directory.open()
    fence = Fence(directory)
    try:
        yield fence
    finally:
        fence.close()


@pytest.fixture
async def fence(engine: Engine, tmp_path: Path) -> AsyncIterator[Fence]:
    with a_fence(tmp_path / "state") as made:
        engine.database.fence = made
        yield made


def looking(engine: Engine, fence: Fence) -> LostEndings:
    return LostEndings(engine.database, fence, ManualClock(START))


async def an_ending(engine: Engine) -> Session:
    """Sign in, and end the session."""
    [session] = await engine.add(a_session())
    assert await end(engine, session)
    return session


async def go_back(engine: Engine) -> None:
    """Remove the marks, as a database that went back in time lacks them."""
    await engine.execute(delete(ending_marks))


async def marks(engine: Engine) -> int:
    counting = select(func.count()).select_from(ending_marks)
    found = await engine.database.read(lambda connection: connection.scalar(counting))
    assert found is not None
    return found


MARKED: dict[str, Work] = {name: work for name, (work, _) in ANNOUNCED.items()}
MARKED["confirm_end"] = SILENT["confirm_end"]


@pytest.mark.parametrize("name", [*ANNOUNCED, *SILENT])
async def test_every_ending_and_no_other_transaction_is_marked_before_it_is_acknowledged(
    engine: Engine, fence: Fence, name: str
) -> None:
    work = MARKED.get(name) or SILENT[name]
    [session] = await engine.add(replace(a_session(), subject_hash=KEY.digest))

    await engine.sessions.transact(lambda transaction: work(transaction, session))

    numbers = fence.directory.read()[fence.directory.process_id]
    assert len(numbers) == await marks(engine) == (name in MARKED)


async def test_a_rolled_back_ending_is_not_marked(engine: Engine, fence: Fence) -> None:
    [session] = await engine.add(a_session())

    async def work(transaction: Transaction) -> None:
        await ANNOUNCED["end_session"][0](transaction, session)
        raise KeyError

    with pytest.raises(KeyError):
        await engine.sessions.transact(work)
    assert fence.saved == await marks(engine) == 0


async def test_ended_keys_are_marked(engine: Engine, fence: Fence) -> None:
    key = a_key()
    await engine.keys.add_key(key)
    assert fence.saved == 0
    await engine.keys.expire_key(key.key_id, START + MINUTE, START)
    await engine.keys.revoke_key(key.key_id, START)
    assert not await engine.keys.revoke_key(
        key.key_id, START
    )  # changes nothing, but is marked too: the first answer may have been lost
    assert fence.saved == await marks(engine) == 3


async def test_an_ending_that_cannot_be_marked_outside_is_not_acknowledged(
    engine: Engine, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_numbers: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fence.directory, "write", fail)
    with pytest.raises(StoreUnavailable):
        await an_ending(engine)
    monkeypatch.undo()
    await an_ending(engine)
    assert len(fence.directory.read()[fence.directory.process_id]) == 2


async def test_a_loss_is_noticed_by_all_and_lasts_until_it_is_resolved(
    engine: Engine, fence: Fence, tmp_path: Path
) -> None:
    await an_ending(engine)
    looked = looking(engine, fence)
    assert not await looked.look()
    assert await read_recorded(engine.database) is None

    await go_back(engine)
    lost = await looked.look()

    assert len(lost) == 1
    assert fence.lost is not None
    recorded = await read_recorded(engine.database)
    assert recorded == (lost, START)
    with a_fence(tmp_path / "elsewhere") as other, a_fence(tmp_path / "state") as later:
        for each in (other, later):
            assert await looking(engine, each).look() == lost
        await resolve(engine.database, lost)
        for each in (fence, other, later):
            assert not await looking(engine, each).look()
            assert each.lost is None
    assert await read_recorded(engine.database) is None


@pytest.mark.parametrize("failure", [OSError("gone"), StoreUnavailable("reading")])
async def test_the_watch_goes_on_after_a_failure(
    engine: Engine, fence: Fence, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    await an_ending(engine)
    await go_back(engine)
    monkeypatch.setattr(lost_endings, "CHECK_SECONDS", 0.001)
    noticing, reported = looking(engine, fence), asyncio.Event()
    look, failures = noticing.look, [failure] * 2

    async def look_after_failures() -> frozenset[Mark]:
        if failures:
            raise failures.pop()
        return await look()

    async def report() -> None:
        reported.set()

    monkeypatch.setattr(noticing, "look", look_after_failures)
    watching = asyncio.create_task(noticing.watch(report))
    async with asyncio.timeout(30):
        await reported.wait()
    watching.cancel()
    assert noticing.are_known


@pytest.mark.parametrize("reads", [True, False])
async def test_a_new_connection_is_checked_before_its_first_answer(
    engine: Engine, fence: Fence, tmp_path: Path, reads: bool
) -> None:
    session = await an_ending(engine)
    await go_back(engine)
    is_file = engine.database.dialect.time_query is None
    database = (
        Database.sqlite(tmp_path / "authority.db") if is_file else Database.postgresql(engine.url)
    )
    database.fence = fence
    try:
        assert fence.lost is None
        if reads:
            await database.read_hot([session.session_id])
        else:
            await database.write(lambda connection: connection.execute(select(ending_marks)))
        assert fence.lost is not None
    finally:
        await database.close()


async def test_a_database_that_is_new_lost_nothing(engine: Engine, fence: Fence) -> None:
    await engine.database.write(fence.mark, fence.note)
    await fence.save()
    await go_back(engine)
    for _ in range(
        2
    ):  # The first look may open a connection, whose check still finds the marks missing.
        assert not await looking(engine, fence).look()
    assert fence.lost is None


async def test_marks_of_ended_processes_are_replaced_by_a_newer_mark(
    engine: Engine, fence: Fence, tmp_path: Path
) -> None:
    with a_fence(tmp_path / "state") as earlier:
        engine.database.fence = earlier
        await an_ending(engine)
        await looking(engine, fence).look()
        assert fence.saved == 0, "the other process runs"
    engine.database.fence = fence
    await looking(engine, fence).look()
    assert list(fence.directory.read()) == [fence.directory.process_id]
    assert fence.saved == await marks(engine) == 1
    await go_back(engine)
    assert await looking(engine, fence).look()


async def test_marks_of_ended_processes_stay_while_they_are_lost(
    engine: Engine, fence: Fence, tmp_path: Path
) -> None:
    with a_fence(tmp_path / "state") as earlier:
        engine.database.fence = earlier
        await an_ending(engine)
    await go_back(engine)
    assert await looking(engine, fence).look()
    assert len(fence.directory.read()) == 2


async def test_old_marks_are_deleted(
    engine: Engine, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_endings = looking(engine, fence)
    for _ in range(70):
        await engine.database.write(fence.mark, fence.note)
    await fence.save()
    await lost_endings.look()
    assert await marks(engine) == 70
    fence.saved += EXTRA_MARKS_LIMIT  # as if these had come before
    monkeypatch.setattr(fence, "oldest", fence.oldest + EXTRA_MARKS_LIMIT // 2)
    await lost_endings.look()
    assert await marks(engine) == 64
    assert not await lost_endings.look()


async def test_marks_that_were_committed_out_of_order_are_kept(
    engine: Engine, fence: Fence
) -> None:
    numbers = [await engine.database.write(fence.mark) for _ in range(3)]
    for number in reversed(numbers):
        fence.note(number)
    await fence.save()
    assert fence.oldest == min(numbers)


async def test_endings_after_a_loss_cannot_hide_it(engine: Engine, fence: Fence) -> None:
    """A pooler keeps the connections of its clients when it switches to another database."""
    await an_ending(engine)
    [session] = await engine.add(a_session())
    await go_back(engine)
    with pytest.raises(EndingsLost):
        await end(engine, session)
    assert fence.lost is not None
    assert await marks(engine) == 0
    lost = await looking(engine, fence).look()
    with pytest.raises(EndingsLost):
        await end(engine, session)
    await resolve(engine.database, lost)
    assert not await looking(engine, fence).look()
    assert await end(engine, session)


async def test_a_loss_can_be_resolved_if_the_state_directory_was_removed_too(
    engine: Engine, fence: Fence, tmp_path: Path
) -> None:
    await an_ending(engine)
    shutil.rmtree(tmp_path / "state")
    await go_back(engine)
    looked = looking(engine, fence)
    lost = await looked.look()
    assert len(lost) == 1
    await resolve(engine.database, lost)
    assert not await looked.look()
    await an_ending(engine)


async def test_a_loss_stops_the_server_even_if_it_cannot_be_recorded(
    engine: Engine, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    await an_ending(engine)
    await looking(
        engine, fence
    ).look()  # Later looks use this connection, which is not checked again.
    await go_back(engine)

    async def fail(*_: object) -> None:
        raise StoreUnavailable("writing")

    monkeypatch.setattr(engine.database, "write", fail)
    with pytest.raises(StoreUnavailable):
        await looking(engine, fence).look()
    assert fence.lost is not None


async def test_a_loss_during_the_exchange_of_marks_is_noticed(
    engine: Engine, fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_fence(tmp_path / "state") as earlier:
        engine.database.fence = earlier
        await an_ending(engine)
    engine.database.fence = fence
    write = engine.database.write

    async def go_back_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        await go_back(engine)
        return await write(*arguments)

    monkeypatch.setattr(engine.database, "write", go_back_first)
    with pytest.raises(EndingsLost):
        await looking(engine, fence).look()
    assert len(fence.directory.read()) == 2
    assert await looking(engine, fence).look()


async def test_a_file_that_cannot_be_removed_is_reported(
    engine: Engine, fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_fence(tmp_path / "state") as earlier:
        engine.database.fence = earlier
        await an_ending(engine)
    engine.database.fence = fence

    def fail(_process_id: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(fence.directory, "remove", fail)
    with pytest.raises(StoreUnavailable):
        await looking(engine, fence).look()
    monkeypatch.undo()
    assert not await looking(engine, fence).look()
    assert len(fence.directory.read()) == 1


async def test_marks_of_unknown_processes_are_no_loss(engine: Engine, fence: Fence) -> None:
    await engine.execute(ending_marks.insert().values(process_id=uuid4(), number=7))
    assert not await looking(engine, fence).look()
