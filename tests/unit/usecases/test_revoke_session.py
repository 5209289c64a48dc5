"""Revoking one session of one's own, and what all endings promise."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
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
from session_authority_server.domain.verdict import Rejection, RejectionReason
from tests.support.engines import MINUTE, START
from tests.unit.usecases.conftest import Authority

EFFECTIVE = timedelta(seconds=3.1)
USER = InitiatingEntity.USER


async def store_fails() -> None:
    raise StoreUnavailable("writing")


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


# Every ending


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
