import asyncio
import logging
from unittest.mock import AsyncMock

import pytest

from session_authority_server.background import wanted_events
from session_authority_server.background.wanted_events import (
    ALL_TYPES,
    TRUST_SECONDS,
    WantedEvents,
)
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.receiver import EventType

SOME = frozenset({EventType.SESSION_ENDED, EventType.TEST})


class Uptime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def knowing(*answers: object) -> tuple[WantedEvents, Uptime]:
    uptime = Uptime()
    store = AsyncMock()
    store.wanted.side_effect = answers
    return WantedEvents(store, uptime), uptime


async def test_every_type_counts_as_wanted_until_the_first_read() -> None:
    wanted, _ = knowing(SOME)
    assert wanted.types() == ALL_TYPES
    await wanted.refresh()
    assert wanted.types() == SOME


async def test_every_type_counts_as_wanted_once_the_last_read_is_too_old() -> None:
    wanted, uptime = knowing(SOME, StoreUnavailable("reading"))
    await wanted.refresh()
    uptime.seconds += TRUST_SECONDS - 1
    with pytest.raises(StoreUnavailable):
        await wanted.refresh()
    assert wanted.types() == SOME
    uptime.seconds += 1
    assert wanted.types() == ALL_TYPES


async def test_the_types_are_read_again_even_after_failures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wanted_events, "REFRESH_SECONDS", 0)
    read = asyncio.Event()
    answers: list[Exception | frozenset[EventType]] = [
        StoreUnavailable("reading"),
        RuntimeError("bug"),
        SOME,
    ]

    async def next_answer() -> frozenset[EventType]:
        if not answers:
            read.set()
            await asyncio.Event().wait()
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    store = AsyncMock()
    store.wanted = next_answer
    wanted = WantedEvents(store)
    keeping = asyncio.create_task(wanted.keep_current())
    async with asyncio.timeout(10):
        await read.wait()
    keeping.cancel()
    assert wanted.types() == SOME
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
