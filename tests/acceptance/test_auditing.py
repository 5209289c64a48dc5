"""What the audit log says of what happened: each thing once, in order, and nothing that did not happen."""

from datetime import timedelta
from typing import Any

import grpc
import pytest

from session_authority import AsyncSessionClient, SessionNotLive, Unavailable
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.token import Token
from session_authority_server.store.transaction import SqlTransaction
from tests.acceptance.authority import NOON, Authority

Line = dict[str, Any]


@pytest.fixture
def policy() -> Policy:
    return Policy(session_limit=3)


def said(lines: list[Line], session_id: str) -> list[str]:
    """Return what was said of one session."""
    return [
        f"{line['event']} {line.get('reason', '')}".strip()
        for line in lines
        if line.get("session_id") == session_id
    ]


async def test_every_way_in_which_a_session_ends_is_told_once_and_after_its_beginning(
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


async def test_an_ending_is_dated_by_when_it_was_and_not_by_when_it_was_found(
    authority: Authority, client: AsyncSessionClient
) -> None:
    await client.create("ada", lifetime=timedelta(minutes=5))
    authority.pass_time(hours=1)
    await authority.expire()()
    [established, ended] = authority.audited()
    assert established["event_timestamp"] == NOON.timestamp()
    assert ended["event_timestamp"] == NOON.timestamp() + 300
    assert ended["initiating_entity"] == "policy"


async def test_a_sign_in_that_is_repeated_is_told_once(
    authority: Authority, client: AsyncSessionClient
) -> None:
    request = pb.CreateSessionRequest(user_id="ada", retry_secret=b"r" * 32)
    answers = [await authority.stub.CreateSession(request) for _ in range(3)]
    assert answers[0] == answers[2]
    assert [line["event"] for line in authority.audited()] == ["session-established"]


async def test_a_token_that_was_replaced_is_told_and_so_is_its_use(
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


async def test_a_forged_secret_is_told_and_what_is_merely_over_or_unknown_is_not(
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


async def test_nothing_is_told_of_what_failed(
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


async def test_a_validation_is_not_told(authority: Authority, client: AsyncSessionClient) -> None:
    new = await client.create("ada", ip_address="203.0.113.7", user_agent="curl/8")
    for _ in range(5):
        authority.pass_time(minutes=2)
        assert await client.validate(new.token)
    [line] = authority.audited()
    assert (line["ips"], line["user_agent"]) == (["203.0.113.7"], "curl/8")


async def test_a_sign_in_that_is_refused_is_not_told(
    authority: Authority, client: AsyncSessionClient
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await authority.stub.CreateSession(pb.CreateSessionRequest(user_id=""))
    assert authority.audited() == []
