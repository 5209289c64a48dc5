"""The store of API keys."""

import asyncio
from datetime import timedelta

from session_authority_server.domain.api_key import ApiKey, KeyState, KeyUse, Permission, issue
from session_authority_server.domain.token import new_id
from tests.support.engines import DAY, MINUTE, SECOND, START, Engine


def a_key(name: str = "shop", lifetime: timedelta | None = None) -> ApiKey:
    key, _ = issue(name, frozenset([Permission.VALIDATE, Permission.CREATE]), START, lifetime)
    return key


def _stored_fields(key: ApiKey) -> tuple[object, ...]:
    return (key, key.last_used_time)


async def test_a_key_is_read_back_as_it_was_added(engine: Engine) -> None:
    forever, brief = a_key(), a_key("köln/batch", DAY)
    await engine.keys.add_key(forever)
    await engine.keys.add_key(brief)

    found = await engine.keys.read_keys()

    expected = sorted([forever, brief], key=lambda key: key.key_id)
    assert [_stored_fields(key) for key in found] == [_stored_fields(key) for key in expected]


async def test_keys_that_ended_before_a_time_can_be_left_out(engine: Engine) -> None:
    revoked, expired, good = a_key("revoked"), a_key("expired", MINUTE), a_key("good")
    for key in (revoked, expired, good):
        await engine.keys.add_key(key)
    await engine.keys.revoke_key(revoked.key_id, START + MINUTE)

    async def names(ended_after: timedelta) -> set[str]:
        return {key.name for key in await engine.keys.read_keys(START + ended_after)}

    assert await names(MINUTE - SECOND) == {"revoked", "expired", "good"}
    assert await names(MINUTE) == {"good"}


async def test_an_expiry_time_can_shorten_a_key_but_not_extend_it(engine: Engine) -> None:
    early, late = a_key(lifetime=MINUTE), a_key(lifetime=DAY)
    for key in (early, late):
        await engine.keys.add_key(key)
        assert await engine.keys.expire_key(key.key_id, START + 2 * MINUTE, START)

    ends = {key.key_id: key.expire_time for key in await engine.keys.read_keys()}
    assert ends == {early.key_id: START + MINUTE, late.key_id: START + 2 * MINUTE}


async def test_expiring_a_valid_key_can_add_its_successor(engine: Engine) -> None:
    old, new = a_key(), a_key()
    await engine.keys.add_key(old)

    assert await engine.keys.expire_key(old.key_id, START + DAY, START, new)

    found = {key.key_id: key for key in await engine.keys.read_keys()}
    assert found[old.key_id].expire_time == START + DAY
    assert found[new.key_id] == new


async def test_an_ended_or_unknown_key_gets_no_new_expiry_and_no_successor(
    engine: Engine,
) -> None:
    expired, revoked = a_key(lifetime=SECOND), a_key()
    for key in (expired, revoked):
        await engine.keys.add_key(key)
    await engine.keys.revoke_key(revoked.key_id, START)
    before = await engine.keys.read_keys()

    now = START + SECOND
    for key_id in (expired.key_id, revoked.key_id, new_id(START)):
        assert not await engine.keys.expire_key(key_id, now + DAY, now, a_key())

    assert await engine.keys.read_keys() == before


async def test_a_key_is_revoked_once_even_after_it_expired(engine: Engine) -> None:
    key = a_key(lifetime=SECOND)
    await engine.keys.add_key(key)

    answers = await asyncio.gather(
        *(engine.keys.revoke_key(key.key_id, START + n * MINUTE) for n in (1, 2))
    )

    assert sorted(answers) == [False, True]
    [found] = await engine.keys.read_keys()
    assert found.revoke_time == START + (answers.index(True) + 1) * MINUTE
    assert found.state(START) is KeyState.REVOKED
    assert not await engine.keys.revoke_key(new_id(START), START)


async def test_the_last_use_of_a_key_never_moves_back(engine: Engine) -> None:
    one, other, unused = a_key(), a_key(), a_key()
    for key in (one, other, unused):
        await engine.keys.add_key(key)
    validate = Permission.VALIDATE
    await engine.keys.note_key_uses({(one.key_id, validate)}, START + DAY)
    await engine.keys.note_key_uses({(one.key_id, validate), (other.key_id, validate)}, START)
    await engine.keys.note_key_uses({(other.key_id, validate)}, START + MINUTE)
    await engine.keys.note_key_uses({(new_id(START), validate)}, START)
    await engine.keys.note_key_uses(set(), START)

    used = {key.key_id: key.last_used_time for key in await engine.keys.read_keys()}
    assert used == {
        one.key_id: START + DAY,
        other.key_id: START + MINUTE,
        unused.key_id: None,
    }


async def test_each_permission_of_a_key_has_its_first_and_last_use(engine: Engine) -> None:
    one, other, unused = a_key(), a_key(), a_key()
    for key in (one, other, unused):
        await engine.keys.add_key(key)
    validate, create = Permission.VALIDATE, Permission.CREATE
    await engine.keys.note_key_uses({(one.key_id, validate)}, START)
    await engine.keys.note_key_uses(
        {(one.key_id, validate), (one.key_id, create), (other.key_id, create)}, START + DAY
    )
    await engine.keys.note_key_uses({(one.key_id, validate)}, START + MINUTE)
    await engine.keys.note_key_uses({(new_id(START), validate)}, START)

    assert await engine.keys.read_key_uses() == {
        one.key_id: {
            validate: KeyUse(START, START + DAY),
            create: KeyUse(START + DAY, START + DAY),
        },
        other.key_id: {create: KeyUse(START + DAY, START + DAY)},
    }


async def test_servers_that_note_a_first_use_concurrently_lose_no_use(engine: Engine) -> None:
    keys = [a_key() for _ in range(5)]
    for key in keys:
        await engine.keys.add_key(key)
    uses = {(key.key_id, permission) for key in keys for permission in key.permissions}

    await asyncio.gather(
        *(engine.keys.note_key_uses(uses, START + number * MINUTE) for number in range(4))
    )

    found = await engine.keys.read_key_uses()
    assert {
        (key_id, permission, use.last_time)
        for key_id, used in found.items()
        for permission, use in used.items()
    } == {(key_id, permission, START + 3 * MINUTE) for key_id, permission in uses}
