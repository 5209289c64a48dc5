from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from session_authority_server.domain.api_key import KeyState, Permission
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.event import KeyCreated, KeyExpirySet
from session_authority_server.usecases import api_keys as module
from session_authority_server.usecases.api_keys import (
    ApiKeys,
    KeyAlreadyEnded,
    TooManyKeys,
)
from tests.support.engines import opened
from tests.support.usecases import Recorder

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PERMISSIONS = frozenset([Permission.CREATE, Permission.MANAGE])


async def test_a_successor_has_the_same_permissions_and_both_keys_are_valid_during_the_overlap(
    tmp_path: Path,
) -> None:
    clock = ManualClock(NOON)
    async with opened("sqlite", tmp_path) as engine:
        keys = ApiKeys(engine.keys, clock)
        old, shown = await keys.create("shop", PERMISSIONS, 100 * HOUR)
        new, shown_now = await keys.rotate(old.key_id, HOUR)
        assert shown_now != shown
        assert (new.name, new.permissions, new.expire_time) == ("shop", PERMISSIONS, None)

        clock.advance(HOUR - timedelta.resolution)
        assert {key.state(clock.now()) for key in await keys.list()} == {KeyState.ACTIVE}
        clock.advance(timedelta.resolution)
        states = {key.key_id: key.state(clock.now()) for key in await keys.list()}
        assert states == {old.key_id: KeyState.EXPIRED, new.key_id: KeyState.ACTIVE}
        for attempt in (keys.rotate(old.key_id, HOUR), keys.expire(old.key_id, HOUR)):
            with pytest.raises(KeyAlreadyEnded, match="already expired"):
                await attempt


async def test_a_revoked_key_stays_unchanged(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    async with opened("sqlite", tmp_path) as engine:
        keys = ApiKeys(engine.keys, clock)
        made, _ = await keys.create("shop", PERMISSIONS)
        first = await keys.revoke(made.key_id)
        clock.advance(HOUR)
        assert await keys.revoke(made.key_id) == first
        with pytest.raises(KeyAlreadyEnded, match="already revoked"):
            await keys.rotate(made.key_id, HOUR)
        assert await keys.list() == [first]


async def test_the_number_of_valid_keys_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEY_LIMIT", 2)
    async with opened("sqlite", tmp_path) as engine:
        keys = ApiKeys(engine.keys, ManualClock(NOON))
        first, _ = await keys.create("one", PERMISSIONS)
        await keys.create("two", PERMISSIONS)
        with pytest.raises(TooManyKeys):
            await keys.create("three", PERMISSIONS)
        await keys.revoke(first.key_id)
        await keys.create("three", PERMISSIONS)


async def test_an_audit_event_is_recorded_only_if_the_expiry_of_a_key_changes(
    tmp_path: Path,
) -> None:
    clock, recorder = ManualClock(NOON), Recorder()
    async with opened("sqlite", tmp_path) as engine:
        keys = ApiKeys(engine.keys, clock, recorder)
        made, _ = await keys.create("shop", PERMISSIONS)
        key_id = str(made.key_id)
        recorder.events.clear()

        await keys.expire(made.key_id, 2 * HOUR)
        await keys.expire(made.key_id, 3 * HOUR)  # the key already expires earlier
        successor, _ = await keys.rotate(made.key_id, HOUR)
        await keys.rotate(made.key_id, HOUR)

        ends = [event for event in recorder.events if isinstance(event, KeyExpirySet)]
        assert ends == [
            KeyExpirySet(key_id, NOON + 2 * HOUR, NOON),
            KeyExpirySet(key_id, NOON + HOUR, NOON),
        ]
        assert KeyCreated(str(successor.key_id), NOON) in recorder.events
