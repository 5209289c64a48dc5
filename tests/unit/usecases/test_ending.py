"""Revoking one, revoking others, signing out."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from session_authority_server.domain.errors import (
    InvalidRequest,
    SessionNotFound,
    SessionNotLive,
    StoreUnavailable,
)
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.session import Ending, EndReason, InitiatingEntity
from session_authority_server.domain.token import Token
from session_authority_server.domain.verdict import NOT_FOUND, Rejection, RejectionReason
from session_authority_server.store.transaction import SqlTransaction
from tests.support.engines import MINUTE, SECOND, START
from tests.unit.usecases.conftest import Authority

EFFECTIVE = timedelta(seconds=3.1)
USER = InitiatingEntity.USER


async def store_fails() -> None:
    raise StoreUnavailable("writing")


# Revoking one


async def test_a_user_ends_another_session_of_theirs_and_that_one_only(
    authority: Authority,
) -> None:
    session, target = await authority.sign_in()
    _, proof = await authority.sign_in()
    _, third = await authority.sign_in()
    authority.clock.advance(MINUTE)
    revocation = await authority.revoke(proof, str(session.session_id))
    assert revocation.session.session_id == session.session_id
    assert revocation.session.ending == Ending(START + MINUTE, EndReason.REVOKED, USER)
    assert not revocation.current
    assert not revocation.already_ended
    assert revocation.effective_time == START + MINUTE + EFFECTIVE
    assert await authority.answer(target) == Rejection(RejectionReason.REVOKED)
    assert await authority.is_good(proof)
    assert await authority.is_good(third)


async def test_ending_the_session_that_asks_is_signing_out(authority: Authority) -> None:
    session, proof = await authority.sign_in()
    revocation = await authority.revoke(proof, str(session.session_id))
    assert revocation.current
    assert await authority.answer(proof) == Rejection(RejectionReason.SIGNED_OUT)


async def test_ending_twice_tells_so_and_changes_nothing(authority: Authority) -> None:
    session, _ = await authority.sign_in()
    _, proof = await authority.sign_in()
    first = await authority.revoke(proof, str(session.session_id))
    authority.clock.advance(MINUTE)
    second = await authority.revoke(proof, str(session.session_id))
    assert (first.already_ended, second.already_ended) == (False, True)
    assert second.session.ending == first.session.ending


async def test_a_session_that_idled_away_has_ended_already(authority: Authority) -> None:
    session, _ = await authority.sign_in(idle_timeout=MINUTE)
    _, proof = await authority.sign_in()
    authority.clock.advance(MINUTE)
    assert (await authority.revoke(proof, str(session.session_id))).already_ended
    assert (await authority.engine.get(session.session_id)).ending is None


async def test_two_tabs_at_once_have_one_effect_and_no_error(authority: Authority) -> None:
    session, _ = await authority.sign_in()
    proofs = [(await authority.sign_in())[1] for _ in range(2)]
    revocations = await asyncio.gather(
        *(authority.revoke(proof, str(session.session_id)) for proof in proofs * 5)
    )
    assert [each.already_ended for each in revocations].count(False) == 1


async def test_two_sessions_that_end_each_other_leave_one(authority: Authority) -> None:
    one, one_token = await authority.sign_in()
    other, other_token = await authority.sign_in()
    outcomes = await asyncio.gather(
        authority.revoke(one_token, str(other.session_id)),
        authority.revoke(other_token, str(one.session_id)),
        return_exceptions=True,
    )
    assert [isinstance(each, SessionNotLive) for each in outcomes].count(True) == 1
    assert [await authority.is_good(each) for each in (one_token, other_token)].count(True) == 1


async def test_another_users_session_and_an_unknown_one_are_not_told_apart(
    authority: Authority,
) -> None:
    _, proof = await authority.sign_in("ann")
    his, his_token = await authority.sign_in("bob")
    answers = []
    for session_id in (his.session_id, uuid4()):
        authority.store.asked.clear()
        with pytest.raises(SessionNotFound) as refusal:
            await authority.revoke(proof, str(session_id))
        answers.append((str(refusal.value), tuple(authority.store.asked)))
    assert answers[0] == answers[1]
    assert await authority.is_good(his_token)


@pytest.mark.parametrize(
    "session_id",
    ["", "garbage", "01890a5dac96774bbcceb302099a8057", "{01890a5d-ac96-774b-bcce-b302099a8057}",
     "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057", " 01890a5d-ac96-774b-bcce-b302099a8057"],
)  # fmt: skip
async def test_a_malformed_id_is_refused_before_the_store_is_asked(
    authority: Authority, session_id: str
) -> None:
    _, proof = await authority.sign_in()
    authority.store.asked.clear()
    with pytest.raises(InvalidRequest) as refusal:
        await authority.revoke(proof, session_id)
    assert [each.field for each in refusal.value.violations] == ["session_id"]
    assert authority.store.asked == []


async def test_an_id_may_be_written_in_capitals(authority: Authority) -> None:
    session, proof = await authority.sign_in()
    await authority.revoke(proof, str(session.session_id).upper())
    assert not await authority.is_good(proof)


async def test_without_a_live_session_nothing_is_ended(authority: Authority) -> None:
    session, token = await authority.sign_in()
    _, dead = await authority.sign_in()
    await authority.sign_out(dead)
    for proof in ("", "garbage", dead):
        with pytest.raises(SessionNotLive):
            await authority.revoke(proof, str(session.session_id))
        with pytest.raises(SessionNotLive):
            await authority.revoke_others(proof)
    assert await authority.is_good(token)


async def test_a_session_that_ends_while_it_asks_ends_nothing(authority: Authority) -> None:
    session, token = await authority.sign_in()
    _, proof = await authority.sign_in()

    async def it_is_signed_out() -> None:
        await authority.sign_out(proof)

    authority.store.before["transact"] = it_is_signed_out
    with pytest.raises(SessionNotLive):
        await authority.revoke(proof, str(session.session_id))
    assert await authority.is_good(token)


# Revoking others


async def test_all_others_end_and_the_one_that_asks_lives(authority: Authority) -> None:
    others = [(await authority.sign_in())[1] for _ in range(5)]
    _, proof = await authority.sign_in()
    _, his = await authority.sign_in("bob")
    authority.clock.advance(MINUTE)
    assert await authority.revoke_others(proof) == START + MINUTE + EFFECTIVE
    assert [await authority.answer(each) for each in others] == [
        Rejection(RejectionReason.REVOKED)
    ] * 5
    assert await authority.is_good(proof)
    assert await authority.is_good(his)


async def test_ending_all_others_again_is_harmless(authority: Authority) -> None:
    _, proof = await authority.sign_in()
    for _ in range(3):
        await authority.revoke_others(proof)
        assert await authority.is_good(proof)


async def test_two_sessions_that_end_all_others_leave_one(authority: Authority) -> None:
    tokens = [(await authority.sign_in())[1] for _ in range(4)]
    outcomes = await asyncio.gather(
        *(authority.revoke_others(token) for token in tokens), return_exceptions=True
    )
    assert [isinstance(each, SessionNotLive) for each in outcomes].count(True) == 3
    assert [await authority.is_good(token) for token in tokens].count(True) == 1


async def test_the_past_tells_when_others_were_ended_and_by_whom(authority: Authority) -> None:
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


async def test_signing_out_ends_exactly_that_session(authority: Authority) -> None:
    _, token = await authority.sign_in()
    _, other = await authority.sign_in()
    assert await authority.sign_out(token) == START + EFFECTIVE
    assert await authority.answer(token) == Rejection(RejectionReason.SIGNED_OUT)
    assert await authority.is_good(other)


async def test_signing_out_again_is_a_success_that_changes_nothing(authority: Authority) -> None:
    session, token = await authority.sign_in()
    await authority.sign_out(token)
    authority.clock.advance(SECOND)
    assert await authority.sign_out(token) == START + SECOND + EFFECTIVE
    ending = (await authority.engine.get(session.session_id)).ending
    assert ending == Ending(START, EndReason.SIGNED_OUT, USER)


async def test_what_is_no_token_is_signed_out_without_a_look_at_the_store(
    authority: Authority,
) -> None:
    assert await authority.sign_out("garbage") == START + EFFECTIVE
    assert authority.store.asked == []


async def test_an_expired_session_is_not_recorded_as_signed_out(authority: Authority) -> None:
    _, token = await authority.sign_in(lifetime=MINUTE)
    authority.clock.advance(MINUTE)
    await authority.sign_out(token)
    assert await authority.answer(token) == Rejection(RejectionReason.EXPIRED)


async def test_a_forged_token_signs_nobody_out(authority: Authority) -> None:
    session, token = await authority.sign_in()
    forged = Token(session.session_id, b"f" * 32).encode()
    await authority.sign_out(forged)
    assert await authority.is_good(token)
    assert await authority.answer(forged) == NOT_FOUND


async def test_a_forged_token_is_looked_at_no_longer_than_an_unknown_one(
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
    await authority.sign_out(token)
    assert asked == ["read_session", "lock_user", "read_session", "end_session"]


# Promises


async def test_an_ending_is_effective_a_lease_and_a_margin_after_its_commit(
    authority: Authority,
) -> None:
    """The clock is read after the commit, however long that took."""
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


async def test_an_outcome_that_is_not_known_is_never_a_success(authority: Authority) -> None:
    session, token = await authority.sign_in()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: authority.sign_out(token),
        lambda: authority.revoke_others(token),
        lambda: authority.revoke(token, str(session.session_id)),
    ]
    for call in calls:
        authority.store.before["transact"] = store_fails
        with pytest.raises(StoreUnavailable):
            await call()
