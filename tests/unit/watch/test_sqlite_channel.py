import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.session import Changes
from session_authority_server.watch import sqlite_channel
from session_authority_server.watch.sqlite_channel import SqliteChannel

ONE, OTHER = Changes({UUID(int=1)}), Changes(user_ids={"ann"})


class Receiver:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def up(self) -> None:
        self.heard.append("up")

    def lost(self) -> None:
        self.heard.append("lost")

    def changed(self, changes: Changes) -> None:
        self.heard.append(changes)

    def returned(self, number: int) -> None:
        self.heard.append(number)


class Writer:
    """SQLite's only writer. The test decides when it is free."""

    def __init__(self) -> None:
        self.turn = asyncio.Event()
        self.failures = 0

    async def take_turn(self) -> None:
        await self.turn.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("writing")


@pytest.fixture
async def writer() -> Writer:
    return Writer()


@pytest.fixture
async def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def channel(writer: Writer, receiver: Receiver) -> AsyncIterator[SqliteChannel]:
    channel = SqliteChannel(writer.take_turn)
    running = asyncio.create_task(channel.run(receiver))
    await asyncio.sleep(0)
    yield channel
    running.cancel()


async def test_a_probe_returns_at_once_if_no_commit_is_in_flight(
    channel: SqliteChannel, receiver: Receiver
) -> None:
    channel.probe(1)
    assert receiver.heard == ["up", 1]


async def test_a_probe_waits_for_the_commits_in_flight_and_for_no_later_ones(
    channel: SqliteChannel, receiver: Receiver
) -> None:
    channel.committing()
    channel.probe(1)
    channel.committing()
    assert receiver.heard == ["up"]
    channel.committed(ONE, certain=True)
    assert receiver.heard == ["up", ONE, 1]
    channel.committed(OTHER, certain=True)
    assert receiver.heard == ["up", ONE, 1, OTHER]


async def test_an_uncertain_commit_takes_the_channel_down_until_the_writer_is_free(
    channel: SqliteChannel,
    receiver: Receiver,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite_channel, "RETRY_SECONDS", 0)
    writer.failures = 2
    channel.committing()
    channel.committed(ONE, certain=False)
    assert receiver.heard == ["up", ONE, "lost"]
    for _ in range(10):
        await asyncio.sleep(0)
    assert receiver.heard == ["up", ONE, "lost"]
    writer.turn.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert receiver.heard == ["up", ONE, "lost", "up"]


async def test_a_second_uncertain_commit_keeps_the_channel_down(
    channel: SqliteChannel, receiver: Receiver, writer: Writer
) -> None:
    channel.committing()
    channel.committed(ONE, certain=False)
    for _ in range(5):
        await asyncio.sleep(0)
    channel.committing()
    channel.committed(OTHER, certain=False)
    writer.turn.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert receiver.heard == ["up", ONE, "lost", OTHER, "lost", "up"]


async def test_an_uncertain_commit_before_the_first_receiver_still_takes_the_channel_down() -> None:
    writer, receiver = Writer(), Receiver()
    channel = SqliteChannel(writer.take_turn)
    channel.committing()
    channel.committed(ONE, certain=False)
    running = asyncio.create_task(channel.run(receiver))
    for _ in range(5):
        await asyncio.sleep(0)
    assert receiver.heard == []
    writer.turn.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert receiver.heard == ["up"]
    running.cancel()
