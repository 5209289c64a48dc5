"""The audit log has each event once and in order, and no event of a failed call."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import grpc
import pytest

from session_authority import AsyncSessionClient, SessionNotLive, Unavailable
from session_authority.v1 import session_admin_service_pb2 as admin_pb
from session_authority.v1 import session_admin_service_pb2_grpc
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy, SupersededUse
from session_authority_server.domain.token import Token
from session_authority_server.store.transaction import SqlTransaction
from tests.support.authority import (
    NOON,
    Authority,
    a_session,
    insert_sessions,
    running_authority,
)

Line = dict[str, Any]
Admin: TypeAlias = "session_admin_service_pb2_grpc.SessionAdminServiceAsyncStub"


@pytest.fixture
def policy() -> Policy:
    return Policy(session_limit=3)


@pytest.fixture
async def admin(authority: Authority) -> AsyncIterator[Admin]:
    async with authority.channel() as channel:
        yield session_admin_service_pb2_grpc.SessionAdminServiceStub(channel)


def why(line: Line) -> str | None:
    """Return the readable reason of a line."""
    reason: str | None = line.get("reason_admin", {}).get("en")
    return reason


def said(lines: list[Line], session_id: str) -> list[str]:
    """Return the lines of one session."""
    return [
        f"{line['event']} {line.get('reason', '')}".strip()
        for line in lines
        if line.get("session_id") == session_id
    ]


async def test_every_kind_of_ending_is_logged_once_and_after_the_sign_in(
    authority: Authority, client: AsyncSessionClient
) -> None:
    signed_out, revoked, expired, idle = (
        await client.create("ada"),
        await client.create("ada"),
        await client.create("bob", lifetime=timedelta(minutes=5)),
        await client.create("cid", idle_timeout=timedelta(minutes=5)),
    )
    await client.sign_out(signed_out.token)
    await client.sign_out(signed_out.token)
    asking = await client.create("ada")
    for _ in range(2):
        await client.revoke(asking.token, revoked.session.session_id)
    limited = []
    for _ in range(4):
        limited.append(await client.create("dan"))
        authority.pass_time(seconds=1)
    authority.pass_time(minutes=5)
    for _ in range(2):
        await authority.expire()()
    swept, keeping = await client.create("eve"), await client.create("eve")
    await client.revoke_others(keeping.token)
    for _ in range(2):
        await authority.expire()()

    lines = authority.audited()
    for new, how in (
        (signed_out, "signed_out"),
        (revoked, "revoked"),
        (expired, "expired"),
        (idle, "idle_timeout"),
        (limited[0], "limit"),
        (swept, "revoked"),
    ):
        assert said(lines, new.session.session_id) == [
            "session-established",
            f"session-ended {how}",
        ]
    for alive in (asking, keeping, *limited[1:]):
        assert said(lines, alive.session.session_id) == ["session-established"]
    [sweep] = [line for line in lines if line["event"] == "sessions-swept"]
    assert (sweep["user_id"], sweep["kept_session_id"]) == ("eve", keeping.session.session_id)


async def test_an_ending_is_logged_with_its_own_time_not_that_of_its_discovery(
    authority: Authority, client: AsyncSessionClient
) -> None:
    await client.create("ada", lifetime=timedelta(minutes=5))
    authority.pass_time(hours=1)
    await authority.expire()()
    [established, ended] = authority.audited()
    assert established["event_timestamp"] == NOON.timestamp()
    assert ended["event_timestamp"] == NOON.timestamp() + 300
    assert ended["initiating_entity"] == "policy"


async def test_a_retried_sign_in_is_logged_once(
    authority: Authority, client: AsyncSessionClient
) -> None:
    request = pb.CreateSessionRequest(user_id="ada", retry_secret=b"r" * 32)
    answers = [await authority.stub.CreateSession(request) for _ in range(3)]
    assert answers[0] == answers[2]
    assert [line["event"] for line in authority.audited()] == ["session-established"]


async def test_a_superseded_token_and_its_use_are_logged(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    renewed = await client.reauthenticate(new.token, authentication_methods=["otp"])
    assert not await client.validate(new.token)
    assert await client.validate(renewed.token)
    with pytest.raises(SessionNotLive):
        await client.list(new.token)
    with pytest.raises(SessionNotLive):
        await client.revoke_others(new.token)
    await client.sign_out(new.token)
    lines = authority.audited()
    assert said(lines, new.session.session_id) == [
        "session-established",
        "session-reauthenticated",
        *["credential-rejected superseded"] * 3,
        "session-ended signed_out",
    ]
    assert lines[1]["amr"] == ["otp"]
    assert {line["user_id"] for line in lines} == {"ada"}


async def test_an_ending_caused_by_a_superseded_token_is_logged_once(
    tmp_path: Path,
) -> None:
    policy = Policy(superseded_use=SupersededUse.END_SESSION)
    async with running_authority(tmp_path, policy) as authority:
        client = authority.client
        new = await client.create("ada")
        renewed = await client.reauthenticate(new.token)
        authority.pass_time(minutes=1)
        assert not await client.validate(new.token)
        async with asyncio.timeout(10):
            while await client.validate(renewed.token):  # the session ends after the answer
                await asyncio.sleep(0.01)
        assert not await client.validate(new.token)
        lines = authority.audited()
    assert said(lines, new.session.session_id) == [
        "session-established",
        "session-reauthenticated",
        "credential-rejected superseded",
        "session-ended revoked",
        "credential-rejected superseded",
    ]
    assert lines[3]["initiating_entity"] == "policy"


async def test_a_forged_secret_is_logged_and_an_ended_or_unknown_token_is_not(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new, over = await client.create("ada"), await client.create("ada")
    await client.sign_out(over.token)
    genuine = tokens.parse(new.token.reveal())
    assert genuine is not None
    forged = Token(genuine.id, b"\0" * 32).encode()
    unknown = tokens.mint(NOON).encode()
    for token in (forged, unknown, over.token, new.token, "garbage"):
        await client.validate(token)
    batch = pb.BatchValidateSessionsRequest(
        requests=[pb.ValidateSessionRequest(session_token=each) for each in (forged, unknown)]
    )
    await authority.stub.BatchValidateSessions(batch)
    rejected = [line for line in authority.audited() if line["event"] == "credential-rejected"]
    assert [line["reason"] for line in rejected] == ["forged"] * 2
    assert {line["session_id"] for line in rejected} == {new.session.session_id}


async def test_failed_calls_are_not_logged(
    authority: Authority, client: AsyncSessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = await client.create("ada")

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("writing")

    with monkeypatch.context() as broken:
        broken.setattr(SqlTransaction, "insert_session", fail)
        broken.setattr(SqlTransaction, "end_session", fail)
        broken.setattr(SqlTransaction, "exempt_from_sweep", fail)
        for call in (
            client.create("ada"),
            client.sign_out(new.token),
            client.revoke_others(new.token),
        ):
            with pytest.raises(Unavailable):
                await call
    assert await client.validate(new.token)
    lines = authority.audited()
    assert [line["event"] for line in lines] == ["session-established"]


# Operators


async def test_each_ending_by_an_operator_is_logged_once_with_its_reason(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    hers, his = await client.create("ada"), await client.create("bob")
    by_id, by_token = await client.create("cid"), await client.create("cid")
    made, made_token = a_session("eve", NOON, created_by="stolen")
    spared, spared_token = a_session("eve", NOON, created_by="other")
    await insert_sessions(authority.database, [made, spared])
    for _ in range(2):
        for target in (
            admin_pb.RevokeOneSessionRequest(session_id=by_id.session.session_id, reason="by id"),
            admin_pb.RevokeOneSessionRequest(session_token=by_token.token.reveal()),
        ):
            await admin.RevokeOneSession(target)
        await admin.RevokeKeySessions(
            admin_pb.RevokeKeySessionsRequest(created_by_key="stolen", reason="a leak")
        )
    assert not await client.validate(made_token)
    assert await client.validate(spared_token)
    await admin.RevokeUserSessions(
        admin_pb.RevokeUserSessionsRequest(user_id="ada", reason="lost laptop")
    )
    for _ in range(2):
        await authority.expire()()
    await admin.RevokeAllSessions(admin_pb.RevokeAllSessionsRequest(reason="breach"))
    authority.pass_time(minutes=2)
    for _ in range(2):
        await authority.expire()()

    lines = authority.audited()
    established = ["session-established"]
    for session_id, before in (
        *((each.session.session_id, established) for each in (hers, his, by_id, by_token)),
        *((str(each.session_id), []) for each in (made, spared)),
    ):
        assert said(lines, session_id) == [*before, "session-ended revoked"]
    ended = {line["session_id"]: line for line in lines if line["event"] == "session-ended"}
    assert {line["initiating_entity"] for line in ended.values()} == {"admin"}
    assert ended[by_id.session.session_id]["reason_admin"] == {"en": "by id"}
    assert ended[by_token.session.session_id]["reason_admin"] == {"en": "The session was revoked."}
    assert ended[str(made.session_id)]["reason_admin"] == {"en": "a leak"}
    assert [
        (line.get("user_id"), line.get("everybody"), line["initiating_entity"], why(line))
        for line in lines
        if line["event"] == "sessions-swept"
    ] == [("ada", None, "admin", "lost laptop"), (None, True, "admin", "breach")]


async def test_an_erasure_is_logged_with_its_operator(
    authority: Authority, client: AsyncSessionClient, admin: Admin
) -> None:
    new = await client.create("ada")
    await client.create("bob")
    assert (await admin.EraseUser(admin_pb.EraseUserRequest(user_id="ada"))).complete
    await authority.expire()()
    *_, erased = authority.audited()
    assert (erased["event"], erased["user_id"]) == ("sessions-swept", "ada")
    assert (erased["initiating_entity"], why(erased)) == ("admin", "The user was erased.")
    assert said(authority.audited(), new.session.session_id) == ["session-established"]


async def test_an_operators_call_without_effect_is_not_logged(
    authority: Authority,
    client: AsyncSessionClient,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = await client.create("ada")
    _, forged = a_session("ada", NOON)

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("writing")

    for nothing in (
        admin_pb.RevokeOneSessionRequest(session_id=str(UUID(int=7))),
        admin_pb.RevokeOneSessionRequest(session_token=forged),
    ):
        await admin.RevokeOneSession(nothing)
    with monkeypatch.context() as broken:
        for method in ("end_session", "sweep_everybody", "begin_erasure"):
            broken.setattr(SqlTransaction, method, fail)
        session_id = new.session.session_id
        for call in (
            admin.RevokeOneSession(admin_pb.RevokeOneSessionRequest(session_id=session_id)),
            admin.RevokeAllSessions(admin_pb.RevokeAllSessionsRequest()),
            admin.EraseUser(admin_pb.EraseUserRequest(user_id="ada")),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    assert await client.validate(new.token)
    assert [line["event"] for line in authority.audited()] == ["session-established"]


async def test_a_validation_is_not_logged(authority: Authority, client: AsyncSessionClient) -> None:
    new = await client.create("ada", ip_address="203.0.113.7", user_agent="curl/8")
    for _ in range(5):
        authority.pass_time(minutes=2)
        assert await client.validate(new.token)
    [line] = authority.audited()
    assert (line["ips"], line["user_agent"]) == (["203.0.113.7"], "curl/8")


async def test_a_refused_sign_in_is_not_logged(
    authority: Authority, client: AsyncSessionClient
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await authority.stub.CreateSession(pb.CreateSessionRequest(user_id=""))
    assert authority.audited() == []
