"""Uses of a token that a re-authentication superseded."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from session_authority_server.background import superseded as module
from session_authority_server.domain.errors import SessionNotLive
from session_authority_server.domain.policy import Policy, SupersededUse
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.verdict import SUPERSEDED, Rejection, RejectionReason
from session_authority_server.usecases.list_sessions import Listing
from session_authority_server.usecases.reauthenticate_session import Reauthentication
from session_authority_server.usecases.validate_sessions import Validation
from tests.support.engines import MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority, store_fails

REVOKED = Rejection(RejectionReason.REVOKED)
GRACE = 10 * SECOND


@pytest.fixture
def strict(authority: Authority) -> Authority:
    return authority.under(Policy(superseded_use=SupersededUse.END_SESSION))


async def renewed(authority: Authority) -> tuple[str, str]:
    """Return the old and the new token of a session that is a minute older than its renewal."""
    _, old = await authority.sign_in()
    authority.clock.advance(MINUTE)
    _, new = await authority.reauthenticate(Reauthentication(session_token=old))
    return old, new.encode()


async def test_by_default_a_superseded_token_is_rejected_and_logged_and_the_session_stays_live(
    authority: Authority,
) -> None:
    old, new = await renewed(authority)
    authority.clock.advance(GRACE)
    assert await authority.answer(old) == SUPERSEDED
    assert [each.user_id for each in authority.reused] == ["ann"]
    assert await authority.is_accepted(new)
    assert len(authority.reused) == 1


USES: dict[str, Callable[[Authority, str], Awaitable[object]]] = {
    "validate": lambda authority, old: authority.validate(Validation(old)),
    "batch": lambda authority, old: authority.validate_all([Validation(old)] * 3),
    "list": lambda authority, old: authority.list(Listing(session_token=old)),
    "revoke": lambda authority, old: authority.revoke(old, "01890a5d-ac96-774b-bcce-b302099a8057"),
    "revoke others": lambda authority, old: authority.revoke_others(old),
    "reauthenticate": lambda authority, old: authority.reauthenticate(
        Reauthentication(session_token=old)
    ),
}


async def use(authority: Authority, how: str, old: str) -> None:
    if how in {"validate", "batch"}:
        assert await USES[how](authority, old) in (SUPERSEDED, [SUPERSEDED] * 3)
    else:
        with pytest.raises(SessionNotLive):
            await USES[how](authority, old)


@pytest.mark.parametrize("how", USES)
async def test_any_use_of_a_superseded_token_ends_the_session_under_a_strict_policy(
    strict: Authority, how: str
) -> None:
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    await use(strict, how, old)
    await strict.superseded.settle()
    assert len(strict.reused) == 1
    assert await strict.answer(new) == REVOKED
    [session] = strict.reused
    ending = (await strict.engine.get(session.session_id)).ending
    assert ending == Ending(START + MINUTE + GRACE, EndReason.REVOKED, InitiatingEntity.POLICY)


@pytest.mark.parametrize("how", USES)
async def test_parallel_requests_with_the_old_token_do_not_end_the_session(
    strict: Authority, how: str
) -> None:
    old, new = await renewed(strict)
    strict.clock.advance(GRACE - SECOND / 1000)
    await use(strict, how, old)
    await strict.superseded.settle()
    assert len(strict.reused) == 1
    assert await strict.is_accepted(new)


async def test_the_grace_period_restarts_with_each_re_authentication(strict: Authority) -> None:
    oldest, old = await renewed(strict)
    strict.clock.advance(MINUTE)
    _, new = await strict.reauthenticate(Reauthentication(session_token=old))
    strict.clock.advance(GRACE - SECOND)
    for each in (oldest, old):
        assert await strict.answer(each) == SUPERSEDED
    await strict.superseded.settle()
    assert await strict.is_accepted(new.encode())


async def test_a_session_that_was_just_renewed_has_its_grace_period(strict: Authority) -> None:
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    newest: list[str] = []

    async def renew() -> None:
        _, token = await strict.reauthenticate(Reauthentication(session_token=new))
        newest.append(token.encode())

    strict.store.before["transact"] = renew
    assert await strict.answer(old) == SUPERSEDED
    await strict.superseded.settle()
    assert await strict.is_accepted(newest[0])


async def test_an_ended_session_stays_unchanged(strict: Authority) -> None:
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    await strict.sign_out(new)
    assert await strict.answer(old) == SUPERSEDED
    await strict.superseded.settle()
    assert await strict.answer(new) == Rejection(RejectionReason.SIGNED_OUT)


@pytest.mark.parametrize(
    "how", ["validate", "batch", "list"]
)  # these calls need no other transaction
async def test_a_slow_ending_neither_delays_nor_changes_an_answer(
    strict: Authority, how: str
) -> None:
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    go_on = asyncio.Event()
    strict.store.before["transact"] = go_on.wait
    async with asyncio.timeout(60):
        await use(strict, how, old)
        go_on.set()
        await strict.superseded.settle()
    assert await strict.answer(new) == REVOKED


async def test_an_ending_that_fails_is_retried(
    strict: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENDING_PAUSE_SECONDS", 0)
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    strict.store.before["transact"] = store_fails
    assert await strict.answer(old) == SUPERSEDED
    await strict.superseded.settle()
    assert await strict.answer(new) == REVOKED


async def test_an_ending_that_fails_too_often_is_left_to_the_next_use(
    strict: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ENDING_PAUSE_SECONDS", 0)
    monkeypatch.setattr(module, "ENDING_TRIES", 1)
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    strict.store.before["transact"] = store_fails
    await strict.answer(old)
    await strict.superseded.settle()
    assert await strict.is_accepted(new)
    assert "its next use tries again" in caplog.text
    await strict.answer(old)
    await strict.superseded.settle()
    assert await strict.answer(new) == REVOKED


async def test_many_uses_of_a_session_end_it_once_and_the_queue_is_limited(
    strict: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ENDINGS_LIMIT", 1)
    first, second = await renewed(strict), await renewed(strict)
    strict.clock.advance(GRACE)
    strict.store.asked.clear()
    for old in (first[0], first[0], second[0]):
        assert await strict.answer(old) == SUPERSEDED
    await strict.superseded.settle()
    assert strict.store.asked.count("transact") == 1
    assert await strict.answer(first[1]) == REVOKED
    assert await strict.is_accepted(second[1])
    assert "too many sessions wait" in caplog.text


async def test_a_graceful_stop_waits_for_an_ending_but_not_forever(
    strict: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    old, new = await renewed(strict)
    strict.clock.advance(GRACE)
    strict.store.before["transact"] = asyncio.Event().wait
    await strict.answer(old)
    await strict.superseded.settle()
    assert await strict.is_accepted(new)
    assert "1 sessions could not be ended" in caplog.text


async def test_signing_out_with_a_superseded_token_ends_the_session_at_once(
    authority: Authority,
) -> None:
    old, new = await renewed(authority)
    await authority.sign_out(old)
    assert await authority.answer(new) == Rejection(RejectionReason.SIGNED_OUT)
    assert authority.reused == []
