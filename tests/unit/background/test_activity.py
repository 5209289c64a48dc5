import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import pytest

from session_authority_server.background import activity as module
from session_authority_server.background.activity import DECISIVE, FLUSH_BATCH, Activity
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import SessionStore, Touch, TouchesSkipped
from tests.support.engines import MINUTE, SECOND, START, a_session

INSTANT = timedelta(microseconds=1)


class Store:
    """A store that records touches."""

    def __init__(self) -> None:
        self.written: list[list[Touch]] = []
        self.moments: list[datetime] = []
        self.fails = False
        self.locked: set[UUID] = set()

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        if self.fails:
            raise StoreUnavailable("writing")
        left = [touch for touch in touches if touch.session_id in self.locked]
        self.written.append([touch for touch in touches if touch not in left])
        self.moments.append(now())
        if left:
            raise TouchesSkipped(left)
        return len(touches)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def activity(store: Store, clock: ManualClock) -> Activity:
    return Activity(cast("SessionStore", store), clock, Policy())


def touches(store: Store) -> list[Touch]:
    return [touch for batch in store.written for touch in batch]


async def test_an_activity_is_written_with_the_next_flush(
    activity: Activity, store: Store, clock: ManualClock
) -> None:
    session = a_session()
    await activity.record(session, START + MINUTE, "192.0.2.9")
    assert (len(activity), store.written) == (1, [])
    clock.advance(2 * MINUTE)
    await activity.flush()
    assert touches(store) == [Touch(session.session_id, START + MINUTE, "192.0.2.9")]
    assert store.moments == [START + 2 * MINUTE]  # the store checks liveness at the time of writing
    assert len(activity) == 0
    await activity.flush()
    assert len(store.written) == 1


@pytest.mark.parametrize(
    ("idle_timeout", "resolution"),
    [(None, MINUTE), (60 * MINUTE, MINUTE), (5 * MINUTE, 30 * SECOND), (MINUTE, 6 * SECOND)],
)
async def test_an_activity_within_the_resolution_of_the_last_one_is_not_written(
    activity: Activity, idle_timeout: timedelta | None, resolution: timedelta
) -> None:
    session = a_session(idle_timeout=idle_timeout)
    await activity.record(session, START + resolution - INSTANT, None)
    assert len(activity) == 0
    await activity.record(session, START + resolution, None)
    assert len(activity) == 1


async def test_many_activities_of_a_session_are_written_as_the_latest_one(
    activity: Activity, store: Store
) -> None:
    session = a_session()
    for seconds in range(60, 100):
        await activity.record(session, START + seconds * SECOND, f"192.0.2.{seconds}")
    await activity.flush()
    assert touches(store) == [Touch(session.session_id, START + 99 * SECOND, "192.0.2.99")]


async def test_a_later_activity_without_address_keeps_the_earlier_ones(
    activity: Activity, store: Store
) -> None:
    session = a_session()
    await activity.record(session, START + 60 * SECOND, "192.0.2.9")
    await activity.record(session, START + 61 * SECOND, None)
    await activity.flush()
    assert touches(store) == [Touch(session.session_id, START + 61 * SECOND, "192.0.2.9")]


async def test_an_activity_close_to_the_idle_deadline_is_written_at_once(
    activity: Activity, store: Store
) -> None:
    session = a_session(idle_timeout=MINUTE)
    safe = START + MINUTE - DECISIVE
    await activity.record(session, safe, None)
    assert store.written == []
    await activity.record(session, safe + INSTANT, None)
    assert [touch.time for touch in touches(store)] == [safe + INSTANT]


async def test_an_activity_close_to_the_idle_deadline_that_cannot_be_written_is_an_error(
    activity: Activity, store: Store
) -> None:
    store.fails = True
    with pytest.raises(StoreUnavailable):
        await activity.record(a_session(idle_timeout=MINUTE), START + 59 * SECOND, None)


async def test_a_failed_flush_keeps_all_activities_for_the_next_flush(
    activity: Activity, store: Store
) -> None:
    sessions = [a_session() for _ in range(3)]
    for session in sessions:
        await activity.record(session, START + MINUTE, None)
    store.fails = True
    with pytest.raises(StoreUnavailable):
        await activity.flush()
    assert len(activity) == 3
    store.fails = False
    await activity.flush()
    assert len(touches(store)) == 3


async def test_an_activity_during_a_flush_is_kept(
    activity: Activity, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = a_session()
    touch = store.touch

    async def touch_slowly(some: Sequence[Touch], now: Callable[[], datetime]) -> int:
        if not store.written:
            await activity.record(session, START + 2 * MINUTE, None)
        return await touch(some, now)

    monkeypatch.setattr(store, "touch", touch_slowly)
    await activity.record(session, START + MINUTE, None)
    await activity.flush()
    assert [each.time for each in touches(store)] == [START + MINUTE, START + 2 * MINUTE]


async def test_a_flush_writes_in_batches(activity: Activity, store: Store) -> None:
    for _ in range(2 * FLUSH_BATCH + 1):
        await activity.record(a_session(), START + MINUTE, None)
    await activity.flush()
    assert [len(batch) for batch in store.written] == [FLUSH_BATCH, FLUSH_BATCH, 1]


async def test_the_number_of_waiting_sessions_is_limited(
    activity: Activity, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PENDING_LIMIT", 2)
    first: Session = a_session()
    for session in (first, a_session(), a_session(), a_session()):
        await activity.record(session, START + MINUTE, None)
    assert (len(activity), activity.dropped) == (2, 2)
    await activity.record(
        first, START + 2 * MINUTE, None
    )  # at the limit, a session that waits can still get a later activity
    await activity.flush()
    assert touches(store)[0].time == START + 2 * MINUTE


async def test_activity_is_flushed_every_few_seconds_even_after_failures(
    activity: Activity,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "FLUSH_INTERVAL", timedelta(milliseconds=2))
    await activity.record(a_session(), START + MINUTE, None)
    store.fails = True
    running = asyncio.create_task(activity.run())
    await asyncio.sleep(0.02)
    assert "activity of 1 sessions waits to be written" in caplog.text
    store.fails = False
    await asyncio.sleep(0.02)
    assert len(touches(store)) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# Sessions that another transaction has locked


async def test_a_decisive_activity_of_a_locked_session_fails_and_the_others_succeed(
    activity: Activity, store: Store
) -> None:
    locked, free = (a_session(idle_timeout=MINUTE) for _ in range(2))
    store.locked = {locked.session_id}
    late = START + MINUTE - SECOND
    stuck, done = await asyncio.gather(
        *(activity.record(each, late, None) for each in (locked, free)), return_exceptions=True
    )
    assert isinstance(stuck, StoreUnavailable)
    assert done is None


async def test_a_flush_keeps_activities_of_locked_sessions_for_the_next_flush(
    activity: Activity, store: Store
) -> None:
    locked, free = a_session(), a_session()
    store.locked = {locked.session_id}
    for session in (locked, free):
        await activity.record(session, START + MINUTE, None)
    with pytest.raises(StoreUnavailable):
        await activity.flush()
    assert [touch.session_id for touch in touches(store)] == [free.session_id]
    assert len(activity) == 1
    store.locked = set()
    await activity.flush()
    assert len(activity) == 0
