"""The operators' service, while apps use the session service."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import uuid4

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    AuthenticationTooOld,
    EndReason,
    ImpersonationForbidden,
    InitiatingEntity,
    InvalidArgument,
    ReauthenticationRequired,
    Rejection,
    RejectionReason,
    SessionState,
)
from session_authority.v1 import session_admin_service_pb2 as pb
from session_authority.v1 import session_admin_service_pb2_grpc
from session_authority_server.domain.policy import Policy
from tests.support.authority import NOON, Authority, a_session, insert_sessions

Admin: TypeAlias = "session_admin_service_pb2_grpc.SessionAdminServiceAsyncStub"
REVOKED = Rejection(RejectionReason.REVOKED)


@pytest.fixture
def policy() -> Policy:
    return Policy(max_authentication_age=timedelta(minutes=5))


@pytest.fixture
async def admin(authority: Authority) -> AsyncIterator[Admin]:
    async with authority.channel() as channel:
        yield session_admin_service_pb2_grpc.SessionAdminServiceStub(channel)


def moment(message: object) -> datetime:
    return message.ToDatetime(UTC)  # type: ignore[attr-defined, no-any-return]


async def test_25_an_operator_revokes_a_users_sessions_and_the_user_sees_that(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    lost, his = await client.create("ada"), await client.create("bob")
    answer = await admin.RevokeUserSessions(
        pb.RevokeUserSessionsRequest(user_id="ada", reason="stolen laptop")
    )
    assert moment(answer.effective_time) == NOON + timedelta(seconds=3.1)
    assert await client.validate(lost.token) == REVOKED
    assert await client.validate(his.token)
    authority.pass_time(minutes=1)
    mine = await client.create("ada")
    [_, ended] = await client.list(mine.token, show_ended=True)
    assert (ended.state, ended.end_reason) == (SessionState.ENDED, EndReason.REVOKED)
    assert ended.initiating_entity is InitiatingEntity.ADMIN
    assert ended.end_time == NOON
    assert authority.query("SELECT reason FROM sweeps") == [("stolen laptop",)]


async def test_an_operator_revokes_all_sessions_and_no_sign_in_in_flight_survives(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    some = [await client.create(user_id) for user_id in ("ada", "bob")]
    for each in some:
        assert await client.validate(each.token)
    authority.pass_time(minutes=1)
    await admin.RevokeAllSessions(pb.RevokeAllSessionsRequest(reason="breach"))
    assert [await client.validate(each.token) for each in some] == [REVOKED] * 2
    with pytest.raises(AuthenticationTooOld):
        await client.create("cyd", authenticate_time=NOON)
    assert await client.validate((await client.create("cyd")).token)


async def test_an_operator_revokes_a_session_by_its_id_or_by_its_token(
    client: AsyncSessionClient, admin: Admin
) -> None:
    one, two, three = [await client.create("ada") for _ in range(3)]
    await admin.RevokeOneSession(pb.RevokeOneSessionRequest(session_id=one.session.session_id))
    await admin.RevokeOneSession(pb.RevokeOneSessionRequest(session_token=two.token.reveal()))
    assert await client.validate(one.token) == REVOKED
    assert await client.validate(two.token) == REVOKED
    assert await client.validate(three.token)


async def test_no_answer_reveals_whether_a_user_or_session_exists(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    """The answers for present, former and unknown users and sessions are equal byte for byte."""
    ada = await client.create("ada")
    _, forged = a_session("ada", NOON)
    users = ["ada", "ada", "unknown"]
    swept = [
        (await admin.RevokeUserSessions(pb.RevokeUserSessionsRequest(user_id=each)))
        for each in users
    ]
    assert len({each.SerializeToString() for each in swept}) == 1
    bob = await client.create("bob")
    targets = [
        pb.RevokeOneSessionRequest(session_id=bob.session.session_id),
        pb.RevokeOneSessionRequest(session_id=bob.session.session_id),
        pb.RevokeOneSessionRequest(session_id=str(uuid4())),
        pb.RevokeOneSessionRequest(session_token=ada.token.reveal()),
        pb.RevokeOneSessionRequest(session_token=forged),
    ]
    ended = [(await admin.RevokeOneSession(each)).SerializeToString() for each in targets]
    assert len(set(ended)) == 1
    erased = [await admin.EraseUser(pb.EraseUserRequest(user_id=each)) for each in users]
    assert len({each.SerializeToString() for each in erased}) == 1
    keys = [
        await admin.RevokeKeySessions(pb.RevokeKeySessionsRequest(created_by_key=each))
        for each in ("a key", "no key")
    ]
    assert len({each.SerializeToString() for each in keys}) == 1


async def test_an_operator_revokes_all_sessions_that_a_key_created_since_a_time(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    before, before_token = a_session("ada", NOON - timedelta(hours=2), created_by="stolen")
    since, since_token = a_session("ada", NOON - timedelta(minutes=5), created_by="stolen")
    other, other_token = a_session("ada", NOON - timedelta(minutes=5), created_by="other")
    await insert_sessions(authority.database, [before, since, other])
    request = pb.RevokeKeySessionsRequest(created_by_key="stolen")
    request.since.FromDatetime(NOON - timedelta(hours=1))
    answer = await admin.RevokeKeySessions(request)
    assert answer.complete
    assert not answer.HasField("resume_time")
    assert await client.validate(since_token) == REVOKED
    assert await client.validate(before_token)
    assert await client.validate(other_token)


async def test_an_erased_user_is_in_no_table_and_can_sign_in_again(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    lost = await client.create("ada@example.com", ip_address="198.51.100.23", user_agent="Xenia/1")
    await client.create("ada@example.com", actor_id="support-7")
    await client.revoke_others(lost.token)
    assert (await admin.EraseUser(pb.EraseUserRequest(user_id="ada@example.com"))).complete
    tables = [
        name for (name,) in authority.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    dump = repr([authority.query(f"SELECT * FROM {name}") for name in tables])
    for trace in ("ada@example.com", "198.51.100.23", "Xenia", "support-7"):
        assert trace not in dump
    assert await client.validate(lost.token) == Rejection(RejectionReason.NOT_FOUND)
    with pytest.raises(AuthenticationTooOld):
        await client.create("ada@example.com", authenticate_time=NOON - timedelta(seconds=1))
    back = await client.create("ada@example.com")
    assert [each.session_id for each in await client.list(back.token, show_ended=True)] == [
        back.session.session_id
    ]


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("RevokeUserSessions", pb.RevokeUserSessionsRequest(), "user_id"),
        ("RevokeUserSessions", pb.RevokeUserSessionsRequest(user_id="a", reason="\n"), "reason"),
        ("RevokeAllSessions", pb.RevokeAllSessionsRequest(reason="x" * 257), "reason"),
        ("RevokeOneSession", pb.RevokeOneSessionRequest(), "target"),
        ("RevokeOneSession", pb.RevokeOneSessionRequest(session_id="x"), "session_id"),
        ("RevokeOneSession", pb.RevokeOneSessionRequest(session_token="ses_x"), "session_token"),
        ("RevokeKeySessions", pb.RevokeKeySessionsRequest(), "created_by_key"),
        ("EraseUser", pb.EraseUserRequest(), "user_id"),
    ],
)
async def test_an_empty_request_is_refused_with_its_field(
    admin: Admin, method: str, request_message: object, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await getattr(admin, method)(request_message)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.value.details() or "").startswith(f"{field}: ")


# Restrictions of apps


async def test_lists_and_revocations_require_a_recent_proof_if_the_policy_does(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, other = await client.create("ada"), await client.create("ada")
    authority.pass_time(minutes=6)
    for call in (
        client.list(mine.token),
        client.revoke(mine.token, other.session.session_id),
        client.revoke_others(mine.token),
    ):
        with pytest.raises(ReauthenticationRequired) as refusal:
            await call
        assert refusal.value.metadata == {"max_authentication_age_seconds": "300"}
    renewed = await client.reauthenticate(mine.token)
    assert len(await client.list(renewed.token)) == 2
    await client.sign_out(other.token)
    assert await client.validate(other.token) == Rejection(RejectionReason.SIGNED_OUT)


async def test_an_actor_is_shown_and_can_neither_list_nor_revoke(
    client: AsyncSessionClient,
) -> None:
    mine = await client.create("ada")
    acting = await client.create("ada", actor_id="support-7")
    assert acting.session.actor_id == "support-7"
    assert mine.session.actor_id is None
    assert (await client.require(acting.token)).actor_id == "support-7"
    for call in (
        client.list(acting.token),
        client.revoke(acting.token, mine.session.session_id),
        client.revoke_others(acting.token),
    ):
        with pytest.raises(ImpersonationForbidden):
            await call
    shown = {each.session_id: each.actor_id for each in await client.list(mine.token)}
    assert shown == {mine.session.session_id: None, acting.session.session_id: "support-7"}
    await client.sign_out(acting.token)
    assert not await client.validate(acting.token)
    with pytest.raises(InvalidArgument):
        await client.create("ada", actor_id="")
