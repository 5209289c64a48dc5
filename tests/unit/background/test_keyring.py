import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from session_authority_server.background import keyring as module
from session_authority_server.background.keyring import TRUST_SECONDS, Keyring
from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission, issue
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.errors import (
    ApiKeyExpired,
    ApiKeyInvalid,
    ApiKeyRevoked,
    StoreUnavailable,
)
from session_authority_server.domain.token import Token, mint

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Store:
    """A store with keys in memory. Tests can make its calls fail."""

    def __init__(self) -> None:
        self.keys: dict[UUID, ApiKey] = {}
        self.failing = False
        self.reads = 0
        self.uses: list[tuple[set[tuple[UUID, Permission]], datetime]] = []

    async def read_keys(self, ended_after: datetime | None = None) -> list[ApiKey]:
        self.reads += 1
        if self.failing:
            raise StoreUnavailable("reading")
        return list(self.keys.values())

    async def note_key_uses(
        self, uses: Collection[tuple[UUID, Permission]], time: datetime
    ) -> None:
        if self.failing:
            raise StoreUnavailable("writing")
        self.uses.append((set(uses), time))
        for key_id, _ in uses:
            self.keys[key_id] = replace(self.keys[key_id], last_used_time=time)

    async def read_key_uses(self) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
        raise NotImplementedError

    def issue(self, lifetime: timedelta | None = None) -> tuple[ApiKey, str]:
        key, presented = issue("shop", frozenset([Permission.VALIDATE]), NOON, lifetime)
        self.keys[key.key_id] = key
        return key, presented

    async def add_key(self, key: ApiKey) -> None:
        raise NotImplementedError

    async def revoke_key(self, key_id: UUID, revoke_time: datetime) -> bool:
        raise NotImplementedError

    async def expire_key(
        self, key_id: UUID, expire_time: datetime, now: datetime, successor: ApiKey | None = None
    ) -> bool:
        raise NotImplementedError


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def keyring(store: Store, clock: ManualClock) -> Keyring:
    return Keyring(store, clock)


async def test_a_valid_key_is_recognised_without_the_store(store: Store, keyring: Keyring) -> None:
    key, presented = store.issue()
    await keyring.refresh()
    for _ in range(3):
        assert keyring.recognise(presented) == key
    assert store.reads == 1


async def test_every_unknown_key_is_refused_with_the_same_message(
    store: Store, keyring: Keyring
) -> None:
    key, presented = store.issue()
    await keyring.refresh()
    wrong_secret = Token(key.key_id, b"x" * 32).encode("sak_")
    unknown = mint(NOON).encode("sak_")
    messages = set()
    for bad in ("", "sak_", presented[:-1], presented.lower(), unknown, wrong_secret):
        with pytest.raises(ApiKeyInvalid) as caught:
            keyring.recognise(bad)
        messages.add(str(caught.value))
    assert len(messages) == 1


async def test_only_a_caller_with_the_secret_learns_that_a_key_has_ended(
    store: Store, keyring: Keyring, clock: ManualClock
) -> None:
    expired, presented_expired = store.issue(MINUTE)
    revoked, presented_revoked = store.issue(MINUTE)
    store.keys[revoked.key_id] = replace(revoked, revoke_time=NOON)
    await keyring.refresh()
    clock.advance(MINUTE)

    with pytest.raises(ApiKeyExpired):
        keyring.recognise(presented_expired)
    with pytest.raises(ApiKeyRevoked):
        keyring.recognise(presented_revoked)
    for key in (expired, revoked):
        with pytest.raises(ApiKeyInvalid):
            keyring.recognise(Token(key.key_id, b"x" * 32).encode("sak_"))


async def test_keys_that_were_read_too_long_ago_are_not_accepted(
    store: Store, clock: ManualClock
) -> None:
    now = 100.0
    keyring = Keyring(store, clock, lambda: now)
    key, presented = store.issue()
    with pytest.raises(StoreUnavailable):
        keyring.recognise(presented)
    await keyring.refresh()
    store.failing = True
    with pytest.raises(StoreUnavailable):
        await keyring.refresh()
    now += TRUST_SECONDS - 0.01
    assert keyring.recognise(presented) == key
    now += 0.01
    with pytest.raises(StoreUnavailable):
        keyring.recognise(presented)
    store.failing = False
    await keyring.refresh()
    assert keyring.recognise(presented) == key


async def test_the_generation_changes_with_permissions_and_not_with_use(
    store: Store, keyring: Keyring
) -> None:
    key, _ = store.issue()
    await keyring.refresh()
    first = keyring.generation
    store.keys[key.key_id] = replace(key, last_used_time=NOON)
    await keyring.refresh()
    assert keyring.generation == first
    store.keys[key.key_id] = replace(key, revoke_time=NOON)
    await keyring.refresh()
    assert keyring.generation != first


async def test_uses_of_a_key_are_written_at_most_every_ten_minutes(
    store: Store, keyring: Keyring, clock: ManualClock
) -> None:
    key, _ = store.issue()
    await keyring.refresh()
    for _ in range(25):
        keyring.note_use(key.key_id, Permission.VALIDATE)
        await keyring.write_uses()
        await keyring.refresh()
        clock.advance(MINUTE)
    written = [time for uses, time in store.uses if uses]
    assert written == [NOON, NOON + 10 * MINUTE, NOON + 20 * MINUTE]


async def test_the_first_use_of_a_permission_is_written_even_if_its_key_was_just_used(
    store: Store, keyring: Keyring, clock: ManualClock
) -> None:
    key, _ = store.issue()
    await keyring.refresh()
    for permission in (Permission.VALIDATE, Permission.MANAGE, Permission.VALIDATE):
        keyring.note_use(key.key_id, permission)
        await keyring.write_uses()
        await keyring.refresh()
        clock.advance(MINUTE)
    assert [uses for uses, _ in store.uses if uses] == [
        {(key.key_id, Permission.VALIDATE)},
        {(key.key_id, Permission.MANAGE)},
    ]


async def test_a_new_process_writes_the_first_use_that_it_sees(
    store: Store, keyring: Keyring
) -> None:
    key, _ = store.issue()
    store.keys[key.key_id] = replace(key, last_used_time=NOON)
    await keyring.refresh()
    keyring.note_use(key.key_id, Permission.VALIDATE)
    await keyring.write_uses()
    assert [uses for uses, _ in store.uses if uses] == [{(key.key_id, Permission.VALIDATE)}]


async def test_uses_of_removed_keys_are_discarded(
    store: Store, keyring: Keyring, clock: ManualClock
) -> None:
    for _ in range(20):
        key, _ = store.issue()
        await keyring.refresh()
        keyring.note_use(key.key_id, Permission.VALIDATE)
        await keyring.write_uses()
        del store.keys[key.key_id]
        await keyring.refresh()
        keyring.note_use(key.key_id, Permission.VALIDATE)  # by a call in flight
        await keyring.write_uses()
    assert len(store.uses) == 40
    assert len([uses for uses, _ in store.uses if uses]) == 20
    assert len(keyring._written) <= 1


async def test_after_a_failure_keys_are_still_read_and_uses_written(
    store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.001)
    key, presented = store.issue()
    store.failing = True
    tasks = [
        asyncio.create_task(each) for each in (keyring.keep_current(), keyring.keep_uses_written())
    ]
    async with asyncio.timeout(60):
        while store.reads < 3:
            await asyncio.sleep(0.001)
        store.failing = False
        keyring.note_use(key.key_id, Permission.VALIDATE)
        while not any(uses for uses, _ in store.uses) or store.reads < 5:
            keyring.note_use(key.key_id, Permission.VALIDATE)
            await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert keyring.recognise(presented) == key
