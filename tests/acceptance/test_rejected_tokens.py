"""The limit of unknown tokens refuses only callers that present too many of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from session_authority import (
    AsyncSessionClient,
    Rejection,
    RejectionReason,
    SessionNotLive,
    ValidationRequest,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.policy import Policy
from tests.support.authority import NOON, Authority, running_authority
from tests.support.status import details_of

A_MINUTE = 2
NOT_FOUND = Rejection(RejectionReason.NOT_FOUND)
UNKNOWN = Rejection(RejectionReason.UNKNOWN)


@pytest.fixture
async def authority(tmp_path: Path, host: str) -> AsyncIterator[Authority]:
    async with running_authority(
        tmp_path, Policy(), host=host, rejected_tokens_per_minute=A_MINUTE
    ) as running:
        yield running


def unknown_token() -> str:
    return tokens.mint(NOON).encode()


def question(token: str) -> pb.ValidateSessionRequest:
    return pb.ValidateSessionRequest(session_token=token)


async def batch(authority: Authority, *asked: pb.ValidateSessionRequest) -> list[Any]:
    answer = await authority.stub.BatchValidateSessions(
        pb.BatchValidateSessionsRequest(requests=asked)
    )
    return list(answer.responses)


async def test_an_empty_bucket_refuses_unknown_tokens_and_never_a_valid_one(
    authority: Authority, client: AsyncSessionClient
) -> None:
    token, ended = [(await client.create("ada")).token for _ in range(2)]
    await client.sign_out(ended)
    bad = [question(unknown_token()) for _ in range(4)]

    # A call with several unknown tokens counts once.
    assert await client.validate(unknown_token()) == NOT_FOUND
    assert len(await batch(authority, *bad)) == 4
    for call in (
        batch(authority, *bad),
        authority.stub.ListSessions(pb.ListSessionsRequest(session_token=unknown_token())),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(caught.value, ErrorInfo).reason == "TOO_MANY_REJECTED_TOKENS"
        retry = details_of(caught.value, RetryInfo).retry_delay.ToTimedelta()
        assert retry.total_seconds() == 60 / A_MINUTE

    assert await client.validate(token)
    assert await client.list(token)
    known = question(token.reveal()), question(ended.reveal())
    accepted, signed_out, *others = await batch(authority, *known, *bad)
    assert accepted.session.user_id == "ada"
    assert signed_out.rejection.reason == pb.REJECTION_REASON_SIGNED_OUT
    assert {each.rejection.reason for each in others} == {pb.REJECTION_REASON_NOT_FOUND}
    await client.reauthenticate(token)
    await client.create("grace")
    await client.sign_out(token)

    authority.pass_time(minutes=1)
    assert await client.validate(unknown_token()) == NOT_FOUND


async def test_malformed_ended_and_superseded_tokens_do_not_count(
    client: AsyncSessionClient,
) -> None:
    ended, old = [(await client.create("ada")).token for _ in range(2)]
    await client.sign_out(ended)
    await client.reauthenticate(old)
    mistyped = unknown_token()[:-1] + "!"
    for _ in range(2 * A_MINUTE):
        assert await client.validate(ended) == Rejection(RejectionReason.SIGNED_OUT)
        for text in ("ses_", "x", mistyped, "ses_" + "0" * 70):
            assert await client.validate(text) == NOT_FOUND
        for token in (mistyped, ended, old):
            with pytest.raises(SessionNotLive) as caught:
                await client.list(token)
            assert caught.value.reason == "SESSION_NOT_LIVE"
    assert await client.validate(unknown_token()) == NOT_FOUND


@pytest.mark.parametrize("near_cache", [False, True])
async def test_the_client_reports_the_refusal_as_a_rejection_that_keeps_the_cookie(
    authority: Authority, near_cache: bool
) -> None:
    async with AsyncSessionClient(
        authority.address, api_key=authority.key, near_cache=near_cache
    ) as client:
        for expected in (NOT_FOUND, NOT_FOUND, UNKNOWN):
            assert await client.validate(unknown_token()) == expected
        several = [ValidationRequest(unknown_token()) for _ in range(3)]
        assert await client.validate_many(several) == [UNKNOWN] * 3
        with pytest.raises(SessionNotLive) as caught:
            await client.list(unknown_token())
        assert caught.value.reason == "TOO_MANY_REJECTED_TOKENS"
        assert await client.validate((await client.create("ada")).token)
