"""Scenarios 5 to 10: validation."""

from datetime import timedelta

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    InternalError,
    Rejection,
    RejectionReason,
    Unavailable,
    ValidationRequest,
)
from session_authority.v1 import session_service_pb2 as pb
from tests.support.authority import NOON, Authority

pytestmark = pytest.mark.both_hosts


async def test_05_a_live_session_validates_and_its_last_activity_moves_forward(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada", ip_address="203.0.113.7")
    authority.pass_time(minutes=5)

    assert await client.validate(new.token, ip_address="198.51.100.1")
    await authority.activity.flush()

    session = await client.require(new.token)
    assert session.last_active_time == NOON + timedelta(minutes=5)
    assert session.last_ip_address == "198.51.100.1"
    assert session.ip_address == "203.0.113.7"
    assert session.create_time == NOON


async def test_05_activity_is_written_at_most_once_per_resolution_window(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    for _ in range(3 * 12):
        authority.pass_time(seconds=5)
        assert await client.validate(new.token)
        await authority.activity.flush()

    assert [touch.time for touch in authority.store.touches] == [
        NOON + timedelta(minutes=minute) for minute in (1, 2, 3)
    ]


async def test_05_many_uses_between_two_flushes_are_written_as_the_latest_one(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    authority.pass_time(minutes=2)
    for last in range(10):
        authority.pass_time(seconds=1)
        await client.validate(new.token, ip_address=f"198.51.100.{last}")
    await authority.activity.flush()

    [touch] = authority.store.touches
    assert touch.time == authority.clock.now()
    assert touch.ip_address == "198.51.100.9"


async def test_05_a_passive_validation_does_not_count_as_activity(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    authority.pass_time(minutes=5)
    await client.validate(new.token, passive=True, ip_address="198.51.100.1")
    await authority.activity.flush()

    assert authority.store.touches == []


async def test_06_a_changed_address_never_invalidates_a_session(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada", ip_address="203.0.113.7", user_agent="curl/8.5.0")
    for address in ("198.51.100.1", "2001:db8::1", "::ffff:10.0.0.1", None, "203.0.113.7"):
        authority.pass_time(minutes=2)
        assert await client.validate(new.token, ip_address=address)
        await authority.activity.flush()
    # A changed user agent cannot matter, since only a sign-in has one.
    assert "user_agent" not in pb.ValidateSessionRequest.DESCRIPTOR.fields_by_name


async def test_07_the_next_validation_rejects_a_revoked_session_and_no_other(
    client: AsyncSessionClient,
) -> None:
    mine, other, lost = [await client.create("ada") for _ in range(3)]
    bobs = await client.create("bob")
    assert await client.validate(lost.token)

    await client.revoke(mine.token, lost.session.session_id)

    assert await client.validate(lost.token) == Rejection(RejectionReason.REVOKED)
    for alive in (mine, other, bobs):
        assert await client.validate(alive.token)


@pytest.mark.parametrize("worker_has_run", [False, True])
async def test_08_a_session_past_its_lifetime_is_refused_whether_or_not_the_worker_has_run(
    authority: Authority, client: AsyncSessionClient, worker_has_run: bool
) -> None:
    new = await client.create("ada", lifetime=timedelta(hours=1))
    authority.pass_time(hours=1)
    if worker_has_run:
        assert await authority.expire()() == 1

    assert await client.validate(new.token) == Rejection(RejectionReason.EXPIRED)


async def test_08_activity_does_not_prolong_the_absolute_lifetime(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada", lifetime=timedelta(hours=1))
    for _ in range(11):
        authority.pass_time(minutes=5)
        assert await client.validate(new.token)
        await authority.activity.flush()
    authority.pass_time(minutes=5)

    assert not await client.validate(new.token)


async def test_09_if_the_store_cannot_be_read_validation_is_an_error_and_never_valid(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    assert await client.validate(new.token)

    authority.query("ALTER TABLE sessions RENAME TO mislaid")

    with pytest.raises(Unavailable):
        await client.validate(new.token)
    with pytest.raises(Unavailable):
        await client.list(new.token)
    with pytest.raises(Unavailable):
        await client.sign_out(new.token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await authority.stub.BatchValidateSessions(
            pb.BatchValidateSessionsRequest(
                requests=[pb.ValidateSessionRequest(session_token=new.token.reveal())]
            )
        )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    # The outage ended no session.
    authority.query("ALTER TABLE mislaid RENAME TO sessions")
    assert await client.validate(new.token)


async def test_09_an_unexpected_failure_of_the_store_is_an_error(
    authority: Authority, client: AsyncSessionClient
) -> None:
    new = await client.create("ada")
    authority.store.failure = ZeroDivisionError()

    with pytest.raises(InternalError):
        await client.validate(new.token)
    with pytest.raises(InternalError):
        await client.validate_many([ValidationRequest(new.token)])

    authority.store.failure = None
    assert await client.validate(new.token)


async def test_10_a_valid_token_with_another_users_id_is_refused(
    client: AsyncSessionClient,
) -> None:
    new = await client.create("ada")

    refused = await client.validate(new.token, user_id="bob")

    assert refused == Rejection(RejectionReason.USER_MISMATCH)
    assert await client.validate(new.token, user_id="ada")
    assert not await client.validate(new.token, user_id="Ada")
    assert not await client.validate(new.token, user_id="ada ")
