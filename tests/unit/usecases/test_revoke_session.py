"""Users end one session, all other sessions or their own. Every ending has an effective time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from session_authority_server.domain.errors import SessionNotLive, StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import Rejection, RejectionReason
from session_authority_server.store.transaction import SqlTransaction
from tests.support.engines import MINUTE, START
from tests.unit.usecases.conftest import Authority, store_fails


async def test_an_id_may_be_written_in_capitals(authority: Authority) -> None:
    session, proof = await authority.sign_in()
    await authority.revoke(proof, str(session.session_id).upper())
    assert not await authority.is_accepted(proof)


async def test_a_session_that_ends_during_its_own_call_ends_no_other(authority: Authority) -> None:
    session, token = await authority.sign_in()
    _, proof = await authority.sign_in()

    async def it_is_signed_out() -> None:
        await authority.sign_out(proof)

    authority.store.before["transact"] = it_is_signed_out
    with pytest.raises(SessionNotLive):
        await authority.revoke(proof, str(session.session_id))
    assert await authority.is_accepted(token)


# All others


async def test_ending_all_others_again_is_harmless(authority: Authority) -> None:
    _, proof = await authority.sign_in()
    for _ in range(3):
        await authority.revoke_others(proof)
        assert await authority.is_accepted(proof)


async def test_two_sessions_that_end_all_others_leave_one(authority: Authority) -> None:
    tokens = [(await authority.sign_in())[1] for _ in range(4)]
    outcomes = await asyncio.gather(
        *(authority.revoke_others(token) for token in tokens), return_exceptions=True
    )
    assert [isinstance(each, SessionNotLive) for each in outcomes].count(True) == 3
    assert [await authority.is_accepted(token) for token in tokens].count(True) == 1


async def test_the_list_of_ended_sessions_shows_time_and_initiator(
    authority: Authority,
) -> None:
    session, _ = await authority.sign_in()
    _, proof = await authority.sign_in()
    authority.clock.advance(MINUTE)
    await authority.revoke_others(proof)
    authority.clock.advance(MINUTE)
    revocation = await authority.revoke(proof, str(session.session_id))
    assert revocation.already_ended
    assert revocation.session.sweep is not None
    assert revocation.session.sweep.time == START + MINUTE


# Signing out


async def test_an_expired_session_is_not_recorded_as_signed_out(authority: Authority) -> None:
    _, token = await authority.sign_in(lifetime=MINUTE)
    authority.clock.advance(MINUTE)
    await authority.sign_out(token)
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


async def test_a_forged_token_ends_no_session_and_costs_as_much_as_an_unknown_one(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, token = await authority.sign_in()
    asked: list[str] = []
    for name in ("read_session", "lock_user", "end_session"):
        original = getattr(SqlTransaction, name)

        async def noted(*given: Any, name: str = name, original: Any = original) -> Any:
            asked.append(name)
            return await original(*given)

        monkeypatch.setattr(SqlTransaction, name, noted)
    for presented in (Token(session.session_id, b"f" * 32), Token(uuid4(), b"f" * 32)):
        await authority.sign_out(presented.encode())
        assert asked == ["read_session"]
        asked.clear()
    assert await authority.is_accepted(token)
    await authority.sign_out(token)
    assert asked == ["read_session", "lock_user", "read_session", "end_session"]


# Every ending


async def test_an_ending_is_effective_a_lease_and_a_margin_after_its_commit(
    authority: Authority,
) -> None:
    """The effective time is computed after the commit, even if the commit was slow."""
    patient = authority.under(
        Policy(cache_lease=timedelta(seconds=10), effective_margin=timedelta(seconds=1))
    )
    _, token = await patient.sign_in()
    _, other = await patient.sign_in()

    async def it_takes_long() -> None:
        authority.clock.advance(MINUTE)

    calls: list[Callable[[], Awaitable[datetime]]] = [
        lambda: patient.revoke_others(token),
        lambda: patient.sign_out(other),
        lambda: patient.sign_out(token),
    ]
    for call in calls:
        authority.store.before["transact"] = it_takes_long
        assert await call() == authority.clock.now() + timedelta(seconds=11)


ENDINGS: dict[str, Callable[[Authority, str, str], Awaitable[object]]] = {
    "sign out": lambda authority, token, _: authority.sign_out(token),
    "revoke": lambda authority, token, session_id: authority.revoke(token, session_id),
    "revoke others": lambda authority, token, _: authority.revoke_others(token),
    "a user's": lambda authority, _token, _id: authority.revoke_user("ann"),
    "everybody's": lambda authority, _token, _id: authority.revoke_all(),
    "by id": lambda authority, _, session_id: authority.revoke_by_id(session_id),
    "by token": lambda authority, token, _: authority.revoke_by_token(token),
    "a key's": lambda authority, _token, _id: authority.revoke_key("key"),
    "an erasure": lambda authority, _token, _id: authority.erase_user("ann"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_unknown_outcome_is_never_a_success(authority: Authority, ending: str) -> None:
    session, token = await authority.sign_in()
    authority.store.before["transact"] = store_fails
    with pytest.raises(StoreUnavailable):
        await ENDINGS[ending](authority, token, str(session.session_id))
