"""Scenarios 16 to 21 and 24: revocations. test_operators.py has scenario 25, the tests of the page 22 and 23."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import Engine, event

from session_authority import (
    AsyncSessionClient,
    AuthenticationTooOld,
    EndReason,
    InitiatingEntity,
    InvalidArgument,
    NewSession,
    Rejection,
    RejectionReason,
    RevokedSession,
    SessionNotFound,
    SessionNotLive,
    SessionState,
)
from session_authority.v1 import session_service_pb2 as pb
from tests.support.authority import NOON, Authority, a_session

AN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SPELLINGS = ("{{{}}}", "urn:uuid:{}", " {}")


async def test_16_the_owner_revokes_another_session_of_their_own(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, lost = await client.create("ada"), await client.create("ada")
    authority.pass_time(minutes=1)

    revoked = await client.revoke(mine.token, lost.session.session_id)

    assert not revoked.already_ended
    assert revoked.session.state is SessionState.ENDED
    assert revoked.session.end_reason is EndReason.REVOKED
    assert revoked.session.initiating_entity is InitiatingEntity.USER
    assert revoked.session.end_time == NOON + timedelta(minutes=1)
    assert revoked.effective_time >= authority.clock.now()
    assert [each.session_id for each in await client.list(mine.token)] == [mine.session.session_id]
    assert await client.validate(lost.token) == Rejection(RejectionReason.REVOKED)


async def test_16_revoking_the_current_session_signs_it_out(client: AsyncSessionClient) -> None:
    mine = await client.create("ada")

    revoked = await client.revoke(mine.token, mine.session.session_id)

    assert revoked.session.current
    assert revoked.session.end_reason is EndReason.SIGNED_OUT
    assert await client.validate(mine.token) == Rejection(RejectionReason.SIGNED_OUT)


async def test_17_a_caller_without_a_live_session_revokes_nothing(
    authority: Authority, client: AsyncSessionClient
) -> None:
    target, ended = await client.create("ada"), await client.create("ada")
    expired = await client.create("ada", lifetime=timedelta(minutes=1))
    superseded = await client.create("ada")
    await client.reauthenticate(superseded.token)
    await client.sign_out(ended.token)
    authority.pass_time(minutes=2)
    _, forged = a_session("ada", NOON)
    before = authority.contents()

    for token in (
        "",
        "garbage",
        forged,
        ended.token.reveal(),
        expired.token.reveal(),
        superseded.token.reveal(),
    ):
        for call in (
            authority.stub.RevokeSession(
                pb.RevokeSessionRequest(session_token=token, session_id=target.session.session_id)
            ),
            authority.stub.RevokeOtherSessions(pb.RevokeOtherSessionsRequest(session_token=token)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(SessionNotLive):
        await client.revoke(ended.token, target.session.session_id)

    assert authority.contents() == before
    assert await client.validate(target.token)


async def test_18_a_malformed_or_empty_id_is_an_invalid_argument_and_changes_nothing(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada")
    authority.store.asked.clear()
    malformed = ["", "x", "0" * 32, "0" * 1000, "ses_x", "null", "é"]

    for session_id in (*malformed, *(each.format(AN_ID) for each in SPELLINGS)):
        with pytest.raises(InvalidArgument) as caught:
            await client.revoke(mine.token, session_id)
        assert [violation.field for violation in caught.value.violations] == ["session_id"]
    assert authority.store.asked == []


async def _refusal(authority: Authority, token: str, session_id: str) -> tuple[Any, ...]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await authority.stub.RevokeSession(
            pb.RevokeSessionRequest(session_token=token, session_id=session_id)
        )
    error = caught.value
    return (
        error.code(),
        error.details(),
        list(error.initial_metadata()),
        # The id of a request is new for each.
        [pair for pair in error.trailing_metadata() if pair[0] != "x-request-id"],
    )


@contextmanager
def _statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "api_keys" not in statement:  # the server reads API keys twice a second, without a call
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_19_an_unknown_id_and_another_users_id_get_identical_answers(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, bobs, gone = [await client.create(user) for user in ("ada", "bob", "bob")]
    await client.sign_out(gone.token)
    never_was, _ = a_session("ada", NOON)
    before = authority.contents()

    answers, work = [], []
    for session_id in (
        str(uuid4()),
        str(never_was.session_id),
        bobs.session.session_id,
        gone.session.session_id,
    ):
        with _statements() as seen:
            answers.append(await _refusal(authority, mine.token.reveal(), session_id))
        work.append(seen)

    assert answers[0][0] is grpc.StatusCode.NOT_FOUND
    assert answers == answers[:1] * 4
    assert work == work[:1] * 4, "the store does the same work for each"
    assert authority.contents() == before
    assert await client.validate(bobs.token)
    with pytest.raises(SessionNotFound):
        await client.revoke(mine.token, bobs.session.session_id)


async def test_19_an_unknown_id_and_another_users_id_take_equal_time(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, bobs = await client.create("ada"), await client.create("bob")
    took: dict[str, list[float]] = {str(uuid4()): [], bobs.session.session_id: []}
    for _ in range(40):
        for session_id, seconds in took.items():
            started = time.perf_counter()
            await _refusal(authority, mine.token.reveal(), session_id)
            seconds.append(time.perf_counter() - started)

    unknown, anothers = (statistics.median(seconds) for seconds in took.values())
    assert 0.5 < unknown / anothers < 2


async def test_20_revoking_twice_succeeds_and_the_second_answer_says_already_ended(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, lost = await client.create("ada"), await client.create("ada")
    first = await client.revoke(mine.token, lost.session.session_id)
    authority.pass_time(hours=1)
    before = authority.contents()

    second = await client.revoke(mine.token, lost.session.session_id)

    assert second.already_ended
    assert second.session.end_time == first.session.end_time == NOON
    assert second.effective_time > first.effective_time
    assert authority.contents() == before


async def test_20_revoking_an_expired_session_says_that_it_had_ended(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada")
    short = await client.create("ada", lifetime=timedelta(minutes=1))
    authority.pass_time(minutes=2)

    revoked = await client.revoke(mine.token, short.session.session_id)

    assert revoked.already_ended
    assert revoked.session.end_reason is EndReason.EXPIRED
    assert revoked.session.end_time == NOON + timedelta(minutes=1)


async def test_21_concurrent_revocations_in_two_tabs_succeed_and_end_the_session_once(
    client: AsyncSessionClient,
) -> None:
    mine, lost = await client.create("ada"), await client.create("ada")

    answers = await asyncio.gather(
        *(client.revoke(mine.token, lost.session.session_id) for _ in range(20))
    )

    assert sorted(answer.already_ended for answer in answers) == [False] + [True] * 19
    assert len({answer.session.end_time for answer in answers}) == 1
    assert not await client.validate(lost.token)
    assert await client.validate(mine.token)


async def test_21_concurrent_revocations_of_two_users_are_independent(
    client: AsyncSessionClient,
) -> None:
    users = [f"user-{number}" for number in range(5)]
    mine = {user: await client.create(user) for user in users}
    lost = {user: await client.create(user) for user in users}

    answers = await asyncio.gather(
        *(client.revoke(mine[user].token, lost[user].session.session_id) for user in users)
    )

    assert not any(answer.already_ended for answer in answers)
    assert [answer.session.user_id for answer in answers] == users
    for user in users:
        assert await client.validate(mine[user].token)
        assert not await client.validate(lost[user].token)


async def test_21_two_devices_revoking_each_other_leave_exactly_one(
    client: AsyncSessionClient,
) -> None:
    one, two = await client.create("ada"), await client.create("ada")

    answers = await asyncio.gather(
        client.revoke(one.token, two.session.session_id),
        client.revoke(two.token, one.session.session_id),
        return_exceptions=True,
    )

    assert {type(answer) for answer in answers} == {RevokedSession, SessionNotLive}
    assert [bool(await client.validate(each.token)) for each in (one, two)].count(True) == 1


async def test_24_one_call_ends_all_sessions_except_the_current_one(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, *others = [await client.create("ada") for _ in range(12)]
    bobs = await client.create("bob")
    authority.pass_time(minutes=1)

    effective = await client.revoke_others(mine.token)

    assert effective >= authority.clock.now()
    assert await client.validate(mine.token)
    assert await client.validate(bobs.token)
    for other in others:
        assert await client.validate(other.token) == Rejection(RejectionReason.REVOKED)
    assert [each.session_id for each in await client.list(mine.token)] == [mine.session.session_id]
    history = await client.list(mine.token, show_ended=True)
    assert {each.session_id for each in history if each.end_reason is EndReason.REVOKED} == {
        other.session.session_id for other in others
    }


async def test_24_a_sign_in_in_flight_does_not_survive_the_call(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada")
    check_began = authority.clock.now()
    authority.pass_time(seconds=1)
    await client.revoke_others(mine.token)
    authority.pass_time(seconds=1)

    with pytest.raises(AuthenticationTooOld):
        await client.create("ada", authenticate_time=check_began)
    with pytest.raises(AuthenticationTooOld):
        await client.reauthenticate(mine.token, authenticate_time=check_began)

    renewed = await client.create("ada", authenticate_time=authority.clock.now())
    assert await client.validate(renewed.token)
    bobs = await client.create("bob", authenticate_time=check_began)
    assert await client.validate(bobs.token)


async def test_24_no_sign_in_answered_before_the_call_survives_a_race(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada")
    check_began = authority.clock.now()
    authority.pass_time(seconds=1)

    _, *outcomes = await asyncio.gather(
        client.revoke_others(mine.token),
        *(client.create("ada", authenticate_time=check_began) for _ in range(12)),
        return_exceptions=True,
    )

    for outcome in outcomes:
        if not isinstance(outcome, AuthenticationTooOld):
            assert isinstance(outcome, NewSession)
            assert not await client.validate(outcome.token)
    assert len(await client.list(mine.token)) == 1


async def test_24_after_revoking_all_others_and_signing_out_no_session_is_live(
    client: AsyncSessionClient,
) -> None:
    mine, *others = [await client.create("ada") for _ in range(5)]

    await client.revoke_others(mine.token)
    await client.sign_out(mine.token)

    for each in (mine, *others):
        assert not await client.validate(each.token)
