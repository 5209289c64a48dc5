"""Callers that record the answers, and the comparison of the answers with the database."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1 import session_service_pb2_grpc
from tests.support.program import Program

T = TypeVar("T")
DEADLINE_SECONDS = 5.0
RECOVERY_SECONDS = 30.0  # on an idle machine, recovery takes less than two
QUIET_SECONDS = 1.0
CALLERS = 24
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED  # the call waited for a second


class Calls:
    """Calls without retries, over as many connections as the client uses."""

    def __init__(self, stub: "session_service_pb2_grpc.SessionServiceAsyncStub") -> None:
        self._stub = stub

    async def create(self, user_id: str) -> pb.CreateSessionResponse:
        request = pb.CreateSessionRequest(user_id=user_id, retry_secret=secrets.token_bytes(32))
        return await self._stub.CreateSession(request, timeout=DEADLINE_SECONDS)

    async def validate(self, token: str) -> pb.ValidateSessionResponse:
        request = pb.ValidateSessionRequest(session_token=token)
        return await self._stub.ValidateSession(request, timeout=DEADLINE_SECONDS)

    async def sign_out(self, token: str) -> None:
        request = pb.SignOutRequest(session_token=token)
        await self._stub.SignOut(request, timeout=DEADLINE_SECONDS)

    async def revoke(self, token: str, session_id: str) -> None:
        request = pb.RevokeSessionRequest(session_token=token, session_id=session_id)
        await self._stub.RevokeSession(request, timeout=DEADLINE_SECONDS)


@asynccontextmanager
async def calling(server: Program) -> AsyncIterator[Calls]:
    connections = json.dumps({"connectionScaling": {"maxConnectionsPerSubchannel": 6}})
    options = [("grpc.enable_retries", 0), ("grpc.service_config", connections)]
    async with grpc.aio.insecure_channel(server.address, options) as channel:
        yield Calls(session_service_pb2_grpc.SessionServiceStub(channel))


def settings(url: str) -> dict[str, str]:
    return {"SESSION_AUTHORITY_DATABASE_URL": url, "SESSION_AUTHORITY_SESSION_LIMIT": "0"}


@dataclass
class Ledger:
    """The answered and the unanswered calls.

    Attributes:
        created: The sessions that were created.
        revoke_asked: The sessions whose revocation was sent.
        revoke_answered: The sessions whose revocation was answered.
        failures: The time and the error of each failed call.
        successes: The time at which each kind of call last succeeded.
        slowest: The duration of the slowest call, in seconds, whatever its outcome.
    """

    created: list[pb.CreateSessionResponse] = field(default_factory=list)
    revoke_asked: set[str] = field(default_factory=set)
    revoke_answered: set[str] = field(default_factory=set)
    failures: list[tuple[float, grpc.aio.AioRpcError]] = field(default_factory=list)
    successes: dict[str, float] = field(default_factory=dict)
    slowest: float = 0.0

    async def noting(self, kind: str, call: Awaitable[T]) -> T:
        """Make a call, and record when it succeeded and how long it took."""
        started = time.monotonic()
        try:
            answer = await call
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)
        self.successes[kind] = time.monotonic()
        return answer

    async def fails(self, breakage: Awaitable[None]) -> None:
        """Break something, and wait until a call fails with UNAVAILABLE."""
        before = len(self.failures)
        await breakage
        give_up = time.monotonic() + RECOVERY_SECONDS
        while all(error.code() is not UNAVAILABLE for _, error in self.failures[before:]):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)

    async def passes(self, back: float) -> None:
        """Wait until calls of every kind have succeeded for a while."""
        give_up = back + RECOVERY_SECONDS
        while True:
            since = max([back, *(moment for moment, _ in self.failures)])
            succeeded = [self.successes.get(kind, 0.0) for kind in ("create", "validate", "revoke")]
            if min(succeeded) > since + QUIET_SECONDS:
                return
            assert time.monotonic() < give_up, self.failures[-3:]
            await asyncio.sleep(0.05)


@asynccontextmanager
async def under_load(
    calls: Calls,
    callers: int = CALLERS,
    expected: Collection[grpc.StatusCode] = (UNAVAILABLE, LATE),
) -> AsyncIterator[Ledger]:
    """Run callers that create, validate and revoke. Afterwards, compare the answers with the database.

    Calls may fail with the expected statuses.
    """
    ledger, until = Ledger(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(_load(calls, f"user-{number}", ledger, until))
        try:
            yield ledger
        finally:
            until.set()
    for _, error in ledger.failures:
        assert error.code() in expected, error
        if error.code() is UNAVAILABLE:
            assert (error.details() or "").startswith("the store is not available"), error
    assert ledger.revoke_answered
    await _check(calls, ledger)


async def _load(calls: Calls, user_id: str, ledger: Ledger, until: asyncio.Event) -> None:
    mine: pb.CreateSessionResponse | None = None
    while not until.is_set():
        try:
            if mine is None:
                mine = await ledger.noting("create", calls.create(user_id))
                ledger.created.append(mine)
            other = await ledger.noting("create", calls.create(user_id))
            ledger.created.append(other)
            answer = await ledger.noting("validate", calls.validate(mine.session_token))
            assert answer.HasField("session"), "an answered sign-in was lost"
            session_id = other.session.session_id
            ledger.revoke_asked.add(session_id)
            await ledger.noting("revoke", calls.revoke(mine.session_token, session_id))
            ledger.revoke_answered.add(session_id)
        except grpc.aio.AioRpcError as error:
            ledger.failures.append((time.monotonic(), error))
            await asyncio.sleep(0.02)


async def _check(calls: Calls, ledger: Ledger) -> None:
    for new in ledger.created:
        session_id = new.session.session_id
        answer = await calls.validate(new.session_token)
        if session_id in ledger.revoke_answered:
            assert answer.HasField("rejection"), "an answered ending was lost"
        elif session_id not in ledger.revoke_asked:
            assert answer.HasField("session"), "an answered sign-in was lost"
