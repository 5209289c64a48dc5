"""Scenarios 1 to 4: signing in and out."""

import pytest

from session_authority import (
    AsyncSessionClient,
    EndReason,
    InitiatingEntity,
    Rejection,
    RejectionReason,
    SessionNotLive,
    SessionState,
)
from session_authority.v1 import session_service_pb2 as pb
from tests.support.authority import NOON, Authority

pytestmark = pytest.mark.both_hosts

CHROME_ON_WINDOWS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/141.0.0.0 Safari/537.36"
)


async def test_01_signing_in_creates_one_record_with_browser_system_address_and_times(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create(
        "ada",
        ip_address="203.0.113.7",
        user_agent=CHROME_ON_WINDOWS,
        authentication_methods=["pwd", "otp"],
        attributes={"tenant": "7"},
    )

    [session] = await client.list(new.token)
    assert session == new.session
    assert session.user_id == "ada"
    assert session.state is SessionState.ACTIVE
    assert session.current
    assert (session.device.browser, session.device.os) == ("Chrome", "Windows")
    assert (session.ip_address, session.last_ip_address) == ("203.0.113.7", "203.0.113.7")
    assert session.create_time == session.last_active_time == session.authenticate_time == NOON
    assert session.authentication_methods == ("pwd", "otp")
    assert session.attributes == {"tenant": "7"}
    assert (session.end_time, session.end_reason, session.initiating_entity) == (None, None, None)
    assert authority.query("SELECT count(*) FROM sessions") == [(1,)]


async def test_02_two_sign_ins_from_identical_browsers_behind_one_address_are_two_sessions(
    client: AsyncSessionClient,
) -> None:
    first, second = [
        await client.create("ada", ip_address="203.0.113.7", user_agent=CHROME_ON_WINDOWS)
        for _ in range(2)
    ]
    assert first.session.session_id != second.session.session_id
    assert first.token != second.token

    await client.revoke(first.token, second.session.session_id)

    assert await client.validate(first.token)
    assert not await client.validate(second.token)


async def test_03_signing_out_ends_exactly_the_current_session(client: AsyncSessionClient) -> None:
    laptop, phone, tablet = [await client.create("ada") for _ in range(3)]

    await client.sign_out(phone.token)

    assert await client.validate(phone.token) == Rejection(RejectionReason.SIGNED_OUT)
    assert await client.validate(laptop.token)
    assert await client.validate(tablet.token)
    [ended] = [
        each
        for each in await client.list(laptop.token, show_ended=True)
        if each.state is SessionState.ENDED
    ]
    assert ended.session_id == phone.session.session_id
    assert ended.end_reason is EndReason.SIGNED_OUT
    assert ended.initiating_entity is InitiatingEntity.USER
    assert ended.end_time == NOON


async def test_03_signing_out_twice_is_a_success(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    first = await client.sign_out(new.token)
    authority.pass_time(hours=1)
    before = authority.contents()

    assert await client.sign_out(new.token) > first
    assert authority.contents() == before


@pytest.mark.parametrize(
    "token", ["", "x", "ses_" + "0" * 70, "sak_" + "0" * 70, "é", "ses_" + "z" * 69]
)
async def test_04_a_request_without_a_session_makes_no_call_to_the_store(
    authority: Authority, client: AsyncSessionClient, token: str
) -> None:
    assert await client.validate(token) == Rejection(RejectionReason.NOT_FOUND)
    await client.sign_out(token)
    with pytest.raises(SessionNotLive):
        await client.list(token)
    # Call the service directly, since the client makes no call without a token.
    answer = await authority.stub.ValidateSession(pb.ValidateSessionRequest(session_token=token))
    assert answer.rejection.reason == pb.REJECTION_REASON_NOT_FOUND
    batch = await authority.stub.BatchValidateSessions(
        pb.BatchValidateSessionsRequest(requests=[pb.ValidateSessionRequest(session_token=token)])
    )
    assert batch.responses[0].rejection.reason == pb.REJECTION_REASON_NOT_FOUND
    await authority.stub.SignOut(pb.SignOutRequest(session_token=token))

    assert authority.store.asked == []
