"""How long a refusal takes tells nothing of why; `benchmarks/timing.py` says how far that holds."""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from session_authority import AsyncSessionClient
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain import token as tokens
from session_authority_server.domain.token import Token
from session_authority_server.rpc.even_time import PERIOD_SECONDS
from tests.acceptance.authority import Authority

# The loop's clock may lag behind by a turn of it.
AT_LEAST_SECONDS = PERIOD_SECONDS * 0.7


@pytest.fixture
async def bad_tokens(client: AsyncSessionClient) -> list[str]:
    new = await client.create("ada")
    parsed = tokens.parse(new.token.reveal())
    assert parsed is not None
    forged, unknown = Token(parsed.id, b"f" * 32), Token(uuid4(), parsed.secret)
    return [forged.encode(), unknown.encode(), "malformed"]


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("ValidateSession", lambda token: pb.ValidateSessionRequest(session_token=token)),
        (
            "BatchValidateSessions",
            lambda token: pb.BatchValidateSessionsRequest(
                requests=[pb.ValidateSessionRequest(session_token=token)]
            ),
        ),
        ("ListSessions", lambda token: pb.ListSessionsRequest(session_token=token)),
        (
            "RevokeSession",
            lambda token: pb.RevokeSessionRequest(session_token=token, session_id=str(uuid4())),
        ),
        ("RevokeOtherSessions", lambda token: pb.RevokeOtherSessionsRequest(session_token=token)),
        (
            "ReauthenticateSession",
            lambda token: pb.ReauthenticateSessionRequest(session_token=token),
        ),
        ("SignOut", lambda token: pb.SignOutRequest(session_token=token)),
    ],
)
async def test_a_bad_token_is_answered_after_a_whole_period(
    authority: Authority, bad_tokens: list[str], method: str, ask: Callable[[str], Any]
) -> None:
    call: Callable[[Any], Awaitable[Any]] = getattr(authority.stub, method)
    for token in bad_tokens:
        began = time.perf_counter()
        try:
            await call(ask(token))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017
        assert time.perf_counter() - began >= AT_LEAST_SECONDS
