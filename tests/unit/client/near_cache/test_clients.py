"""Both clients with a near cache, against an authority with scripted answers and streams."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from session_authority import (
    AsyncSessionClient,
    ClientClosed,
    InternalError,
    InvalidArgument,
    NearCache,
    Rejection,
    RejectionReason,
    Session,
    SessionClient,
    ValidationRequest,
    _core,
)
from session_authority.v1 import session_service_pb2 as v1
from tests.support.fake_authority import (
    NOON_MESSAGE,
    FakeAuthority,
    fault,
    session_message,
)
from tests.support.waiting import until
from tests.unit.client.conftest import Twin, answer_by_token, tokens_asked
from tests.unit.client.near_cache.conftest import NearTwin


async def test_the_second_validation_makes_no_call(
    near: NearTwin, authority: FakeAuthority
) -> None:
    first = await near.validate("t-1", ip_address="192.0.2.1")
    second = await near.validate("t-1", ip_address="192.0.2.1")
    assert isinstance(second, Session)
    assert first == second
    assert await near.require("t-1") == second
    assert tokens_asked(authority) == ["t-1"]
    assert near.statistics.hits == 2


async def test_validate_cached_answers_from_memory_and_never_calls(
    near: NearTwin, authority: FakeAuthority
) -> None:
    assert near.client.validate_cached("t-1") is None
    assert authority.calls == []
    validated = await near.validate("t-1", ip_address="192.0.2.1")
    assert near.client.validate_cached("t-1", ip_address="192.0.2.2") == validated
    assert near.client.validate_cached("t-1", user_id="another") == Rejection(
        RejectionReason.USER_MISMATCH
    )
    assert tokens_asked(authority) == ["t-1"]


async def test_validate_cached_knows_nothing_without_a_near_cache(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    twin = Twin(client_type(authority_by_token.address))
    assert isinstance(await twin.validate("t-1"), Session)
    assert twin.client.validate_cached("t-1") is None
    await twin.close()


async def test_rejections_are_not_cached(near: NearTwin, authority: FakeAuthority) -> None:
    for _ in range(2):
        assert await near.validate("x-1") == Rejection(RejectionReason.REVOKED)
    assert tokens_asked(authority) == ["x-1", "x-1"]


async def test_an_invalid_token_is_rejected_without_a_call(
    near: NearTwin, authority: FakeAuthority
) -> None:
    for token in (None, "", "ä"):
        assert await near.validate(token) == Rejection(RejectionReason.NOT_FOUND)
    assert authority.calls == []


async def test_a_validation_that_a_change_overtakes_is_answered_but_not_cached(
    near: NearTwin, authority: FakeAuthority
) -> None:
    def evict_first(request: v1.ValidateSessionRequest) -> v1.ValidateSessionResponse:
        authority.watch.evict("s-1", "s-other")
        return answer_by_token(request)

    await near.validate("t-other")
    authority.answers_by("ValidateSession", evict_first)
    authority.calls.clear()
    for _ in range(2):
        # The stream and the answer race on the wire. In either order, the answer must not stay cached.
        await near.validate("t-1")
        await until(lambda: near.statistics.size == 0)
    assert tokens_asked(authority) == ["t-1", "t-1"]


async def test_use_is_reported_in_the_background_with_the_latest_address(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    authority = authority_by_token
    near = NearTwin(client_type(authority.address, near_cache=NearCache(activity_seconds=1)))
    await near.connected()
    await near.validate("t-1", ip_address="192.0.2.1")
    authority.calls.clear()
    await near.validate("t-1", ip_address="192.0.2.2")

    async def used() -> bool:
        await near.validate("t-1")
        return bool(authority.calls)

    ends_at = time.monotonic() + 60
    while not await used():
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)
    (call, *_) = authority.calls
    assert call.method == "ValidateSession"
    assert call.request.ip_address == "192.0.2.2"
    assert not call.request.passive
    assert near.statistics.misses <= 2
    assert near.statistics.revalidations >= 1
    await near.close()


async def test_a_report_that_is_rejected_evicts_the_session(
    client_type: type[SessionClient | AsyncSessionClient], authority_by_token: FakeAuthority
) -> None:
    authority = authority_by_token
    near = NearTwin(client_type(authority.address, near_cache=NearCache(activity_seconds=1)))
    await near.connected()
    await near.validate("t-1", passive=True)
    authority.answers(
        "ValidateSession",
        fault(grpc.StatusCode.INTERNAL, "INTERNAL"),
        v1.ValidateSessionResponse(rejection=v1.Rejection(reason=v1.REJECTION_REASON_EXPIRED)),
    )
    assert await near.validate("t-1")
    ends_at = time.monotonic() + 60
    while near.statistics.size:
        await near.validate("t-1")  # the first report fails, which keeps the entry
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.02)
    assert not await near.validate("t-1")
    await near.close()


REVOKED = v1.RevokeSessionResponse(session=session_message("s-2"), effective_time=NOON_MESSAGE)


@pytest.mark.parametrize("outcome", ["answer", "failure"])
async def test_a_client_evicts_a_session_that_it_ends_whatever_the_outcome(
    near: NearTwin, authority: FakeAuthority, outcome: str
) -> None:
    down = fault(grpc.StatusCode.INTERNAL, "INTERNAL")
    failed = outcome == "failure"
    renewed = v1.ReauthenticateSessionResponse(session=session_message(), session_token="t-new")
    authority.answers("RevokeSession", down if failed else REVOKED)
    authority.answers(
        "SignOut", down if failed else v1.SignOutResponse(effective_time=NOON_MESSAGE)
    )
    authority.answers("ReauthenticateSession", down if failed else renewed)
    authority.answers(
        "RevokeOtherSessions",
        down if failed else v1.RevokeOtherSessionsResponse(effective_time=NOON_MESSAGE),
    )
    for token in ("t-1", "t-2", "t-3", "t-4"):
        await near.validate(token)
    assert near.statistics.size == 4
    for count, (method, *arguments) in enumerate(
        [("revoke", "t-1", "s-2"), ("sign_out", "t-3"), ("reauthenticate", "t-4")], start=1
    ):
        try:
            await getattr(near, method)(*arguments)
        except InternalError:
            assert failed
        assert near.statistics.size == 4 - count
    try:
        await near.revoke_others("t-1")
    except InternalError:
        assert failed
    assert near.statistics.size == 0
    assert await near.sign_out(None)


async def test_a_session_that_an_integration_ends_is_evicted_before_the_answer(
    near: NearTwin, authority: FakeAuthority
) -> None:
    authority.answers("SignOut", v1.SignOutResponse(effective_time=NOON_MESSAGE))
    authority.answers("RevokeSession", REVOKED)
    for token in ("t-1", "t-2", "t-3"):
        await near.validate(token)

    def page() -> _core.Operation[list[int]]:
        sizes = []
        for operation in (_core.sign_out("t-1"), _core.revoke("t-3", "s-2")):
            yield from operation
            sizes.append(near.statistics.size)
        return sizes

    assert await near.run_operation(page()) == [2, 1]
    assert near.statistics.size == 1


async def test_validate_many_uses_the_cache(near: NearTwin, authority: FakeAuthority) -> None:
    await near.validate("t-1")
    authority.calls.clear()
    requests = [ValidationRequest(token) for token in ("t-1", "t-2", None, "x-3", "t-4")]
    answers = await near.validate_many(requests)
    assert [getattr(answer, "session_id", None) for answer in answers] == [
        "s-1",
        "s-2",
        None,
        None,
        "s-4",
    ]
    assert tokens_asked(authority) == ["t-2", "x-3", "t-4"]
    await near.validate_many(requests)
    assert tokens_asked(authority) == ["t-2", "x-3", "t-4", "x-3"]
    authority.answers("ValidateSession", v1.ValidateSessionResponse())
    with pytest.raises(InternalError):
        await near.validate_many(requests)


async def test_only_the_authority_refuses_an_invalid_address(
    near: NearTwin, authority: FakeAuthority
) -> None:
    def answer(request: v1.ValidateSessionRequest) -> Any:
        if request.ip_address == "junk":
            return fault(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
                violations={"ip_address": "is not an IP address"},
            )
        return answer_by_token(request)

    authority.answers_by("ValidateSession", answer)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="ip_address: is not an IP address"):
            await near.validate("t-1", ip_address="junk")
        assert await near.validate("t-1", ip_address="192.0.2.1")
    with pytest.raises(InvalidArgument, match="user_id"):
        await near.validate("t-1", user_id="")


async def test_a_closed_client_raises_and_caches_nothing(
    near: NearTwin, authority: FakeAuthority
) -> None:
    await near.validate("t-1")
    await near.close()
    await near.close()
    assert near.statistics.size == 0
    for ask in (near.validate("t-1"), near.validate_many([ValidationRequest("t-1")])):
        with pytest.raises(ClientClosed):
            await ask
    await until(lambda: authority.watch.streams == 0)
