import asyncio
from datetime import timedelta

from session_authority_server.domain.errors import (
    SessionNotLive,
    StoreUnavailable,
)
from session_authority_server.domain.session import InitiatingEntity
from session_authority_server.domain.verdict import Rejection, RejectionReason
from tests.support.engines import MINUTE, START
from tests.unit.usecases.conftest import Authority

EFFECTIVE = timedelta(seconds=3.1)
USER = InitiatingEntity.USER


async def store_fails() -> None:
    raise StoreUnavailable("writing")


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
