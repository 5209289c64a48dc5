"""Whether a sign-in comes from a device that the user has not used before."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.device import Device, DeviceType
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity, Session
from session_authority_server.store.inserting import DEVICES_COMPARED
from session_authority_server.usecases.create_session import SignIn
from tests.support.engines import DAY, SECOND, START, Engine, a_session
from tests.support.soak import soaked
from tests.support.usecases import UseCases

LAPTOP = Device("Firefox", "143.0", "Linux", "6", DeviceType.DESKTOP)
PHONE = Device("Safari", "26", "iOS", "26", DeviceType.PHONE)
SIGNED_OUT = Ending(START + SECOND, EndReason.SIGNED_OUT, InitiatingEntity.USER)


def on(device: Device, user_id: str = "ann", *, at: timedelta = timedelta(0)) -> Session:
    return replace(a_session(user_id, at=START + at), device=device)


async def is_new(engine: Engine, session: Session) -> bool:
    """Sign in. Return whether the device is new, after reading the session back."""
    [added] = await engine.add(session)
    read = await engine.get(session.session_id)
    assert read.new_device is added.new_device
    return added.new_device


async def test_the_first_sign_in_of_a_user_is_from_a_new_device(engine: Engine) -> None:
    assert await is_new(engine, on(LAPTOP))
    assert not await is_new(engine, on(LAPTOP))


async def test_a_device_is_known_to_its_own_user_only(engine: Engine) -> None:
    await engine.add(on(LAPTOP, "bob"))
    assert await is_new(engine, on(LAPTOP))


@pytest.mark.parametrize(
    "other",
    [
        replace(LAPTOP, browser="Chrome"),
        replace(LAPTOP, os="Windows"),
        replace(LAPTOP, type=DeviceType.TABLET),
    ],
    ids=["browser", "system", "type"],
)
async def test_another_browser_system_or_type_is_a_new_device(
    engine: Engine, other: Device
) -> None:
    await engine.add(on(LAPTOP))
    assert await is_new(engine, on(other))


async def test_another_version_is_the_same_device(engine: Engine) -> None:
    await engine.add(on(LAPTOP))
    assert not await is_new(engine, on(replace(LAPTOP, browser_version="144.0", os_version="7")))


async def test_a_device_is_known_from_the_history_and_from_expired_sessions(engine: Engine) -> None:
    await engine.fill(
        [
            replace(on(LAPTOP), ending=SIGNED_OUT),
            replace(a_session(lifetime=SECOND), device=PHONE),
        ]
    )
    assert not await is_new(engine, on(LAPTOP, at=DAY))
    assert not await is_new(engine, on(PHONE, at=DAY))


async def test_a_device_is_new_again_once_its_sessions_have_left_the_history(
    engine: Engine,
) -> None:
    await engine.fill([replace(on(LAPTOP), ending=SIGNED_OUT)])
    await engine.upkeep.purge_ended(START + DAY, 10)
    assert await is_new(engine, on(LAPTOP, at=DAY))


@pytest.mark.parametrize("ended", [False, True], ids=["live", "ended"])
async def test_only_the_latest_sessions_are_compared(engine: Engine, *, ended: bool) -> None:
    def made(number: int, device: Device) -> Session:
        at = number * SECOND
        ending = replace(SIGNED_OUT, time=START + at) if ended else None
        return replace(on(device, at=at), ending=ending)

    latest = [made(number, LAPTOP) for number in range(2, DEVICES_COMPARED + 1)]
    await engine.fill([made(1, PHONE), *latest])
    assert not await is_new(engine, on(PHONE, at=DAY))  # the last that counts

    await engine.fill([made(0, replace(PHONE, os="iPadOS"))])
    assert await is_new(engine, on(replace(PHONE, os="iPadOS"), at=DAY))


@pytest.mark.soak
async def test_of_two_concurrent_sign_ins_from_a_new_device_exactly_one_is_new(
    engine: Engine,
) -> None:
    pairs = soaked(long=1_000, short=30)
    ask = UseCases(engine.sessions, ManualClock(START), Policy())

    async def sign_in(user_id: str) -> bool:
        session, _ = await ask.create(SignIn(user_id=user_id, user_agent="Firefox/143.0"))
        return session.new_device

    async def pair(number: int) -> int:
        # Half of the users have signed in before, from another device: their row exists already.
        user_id = f"user-{number}"
        if number % 2:
            await ask.create(SignIn(user_id=user_id, user_agent="curl/8.0"))
        return sum(await asyncio.gather(sign_in(user_id), sign_in(user_id)))

    for start in range(0, pairs, 10):
        new = await asyncio.gather(*(pair(number) for number in range(start, start + 10)))
        assert list(new) == [1] * 10
