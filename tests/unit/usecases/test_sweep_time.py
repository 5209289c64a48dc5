"""Sign-ins after a sweep by a server whose clock was ahead."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from session_authority_server.domain.clock import TOLERATED_SKEW, ManualClock
from session_authority_server.domain.errors import AuthenticationTooOld
from session_authority_server.usecases.create_session import SignIn
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from tests.support.engines import SECOND, START
from tests.unit.usecases.conftest import Authority

HOUR = timedelta(hours=1)
Sweep = Callable[[Authority], Awaitable[object]]
SWEEPS = {
    "of a user": lambda authority: authority.revoke_user("ann"),
    "of everybody": lambda authority: authority.revoke_all(),
    "by an erasure": lambda authority: authority.erase_user("ann"),
}


def ahead(authority: Authority, by: timedelta) -> Authority:
    """Return the use cases of another server, whose clock is ahead."""
    clock = ManualClock(authority.clock.now() + by)
    return Authority(authority.engine, clock, authority.store, authority.policy)


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS.keys())
async def test_a_sweep_in_the_future_ends_sessions_and_blocks_no_sign_in(
    authority: Authority, sweep: Sweep
) -> None:
    _, old = await authority.sign_in("ann")
    await sweep(ahead(authority, HOUR))
    assert not await authority.is_accepted(old)
    _, new = await authority.sign_in("ann")
    assert await authority.is_accepted(new)
    await authority.create(SignIn(user_id="ann", authenticate_time=START))


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS.keys())
async def test_a_sign_in_that_began_before_a_sweep_of_the_future_does_not_survive_it(
    authority: Authority, sweep: Sweep
) -> None:
    await authority.sign_in("ann")
    await sweep(ahead(authority, HOUR))
    begun = authority.clock.now() - SECOND
    for _ in range(3):
        with pytest.raises(AuthenticationTooOld):
            await authority.create(SignIn(user_id="ann", authenticate_time=begun))
    await authority.create(SignIn(user_id="ann"))


async def test_a_sweep_within_the_tolerated_skew_keeps_its_time(authority: Authority) -> None:
    await authority.sign_in("ann")
    await ahead(authority, TOLERATED_SKEW).revoke_user("ann")
    with pytest.raises(AuthenticationTooOld):
        await authority.create(SignIn(user_id="ann"))
    authority.clock.advance(TOLERATED_SKEW)
    await authority.create(SignIn(user_id="ann"))


async def test_a_sweep_in_the_future_does_not_block_re_authentication(authority: Authority) -> None:
    _, token = await authority.sign_in("ann")
    await authority.sign_in("ann")
    later = ahead(authority, HOUR)
    await later.revoke_others(token)
    await authority.reauthenticate(Reauthentication(session_token=token))
