"""No answered write is lost if the server is killed with SIGKILL."""

import asyncio
import random
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority import (
    AsyncSessionClient,
    NewSession,
    Rejection,
    RejectionReason,
    SessionAuthorityError,
    ValidationRequest,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority.v1.session_service_pb2_grpc import SessionServiceStub
from session_authority_server.store.database import Database
from tests.support.program import Program, serving
from tests.support.soak import soaked

pytestmark = pytest.mark.both_hosts

ROUNDS = soaked(long=30, short=2)  # on each host
STORM_SECONDS = 0.3
PATIENCE_SECONDS = 60
CLIENTS = 4
TASKS_A_CLIENT = 3


@dataclass
class Ledger:
    """Answered requests with their answers, and unanswered requests."""

    created: list[NewSession] = field(default_factory=list)
    revoke_asked: set[str] = field(default_factory=set)
    revoke_answered: set[str] = field(default_factory=set)


async def _sign_in_and_revoke(client: AsyncSessionClient, user_id: str, ledger: Ledger) -> None:
    mine = await client.create(user_id)
    ledger.created.append(mine)
    while True:
        other = await client.create(user_id)
        ledger.created.append(other)
        if random.random() < 0.5:
            ledger.revoke_asked.add(other.session.session_id)
            await client.revoke(mine.token, other.session.session_id)
            ledger.revoke_answered.add(other.session.session_id)


async def _storm(server: Program, ledger: Ledger, round_number: int) -> None:
    clients = [AsyncSessionClient(server.address) for _ in range(CLIENTS)]
    tasks = [
        asyncio.create_task(_sign_in_and_revoke(client, f"{round_number}-{number}-{task}", ledger))
        for number, client in enumerate(clients)
        for task in range(TASKS_A_CLIENT)
    ]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.sleep(STORM_SECONDS)
        while len(ledger.created) <= len(tasks) or not ledger.revoke_answered:
            await asyncio.sleep(0.01)  # on a slow machine, nothing has been answered yet
    assert not any(task.done() for task in tasks), "the storm was on"
    server.kill()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError | SessionAuthorityError), outcome
    for client in clients:
        await client.close()


async def _check(server: Program, ledger: Ledger) -> None:
    async with AsyncSessionClient(server.address) as client:
        answers = await client.validate_many(
            [ValidationRequest(new.token, passive=True) for new in ledger.created]
        )
    for new, answer in zip(ledger.created, answers, strict=True):
        session_id = new.session.session_id
        if session_id in ledger.revoke_answered:
            assert answer == Rejection(RejectionReason.REVOKED), "an answered ending was lost"
        elif session_id not in ledger.revoke_asked:
            assert answer == new.session, "an answered sign-in was lost"


@pytest.mark.soak
async def test_answered_sign_ins_and_endings_survive_kill_9_in_a_storm(tmp_path: Path) -> None:
    settings = {"SESSION_AUTHORITY_SESSION_LIMIT": "0"}
    answered: list[Ledger] = []
    for round_number in range(ROUNDS):
        with serving(tmp_path, settings=settings) as server:
            # Sessions of the previous round, whose process was killed.
            if answered:
                await _check(server, answered[-1])
            answered.append(Ledger())
            await _storm(server, answered[-1], round_number)
    with serving(tmp_path, settings=settings) as server:
        for ledger in answered:
            await _check(server, ledger)

    assert sum(len(ledger.created) for ledger in answered) > ROUNDS * CLIENTS * TASKS_A_CLIENT
    assert sum(len(ledger.revoke_answered) for ledger in answered) >= ROUNDS


def test_a_retry_after_kill_9_returns_the_created_session(tmp_path: Path) -> None:
    request = pb.CreateSessionRequest(user_id="ada", retry_secret=secrets.token_bytes(32))
    answers = []
    for _ in range(2):
        with serving(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
            answers.append(SessionServiceStub(channel).CreateSession(request))
            server.kill()

    assert answers[0] == answers[1]
    assert answers[0].session_token


async def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """A test cannot cut the power, so this one checks the settings that make SQLite survive a power loss."""
    database = Database.sqlite(tmp_path / "sessions.sqlite")
    try:
        for run in (database.read, database.write):

            async def pragma(connection: AsyncConnection) -> tuple[str, int]:
                mode = await connection.exec_driver_sql("PRAGMA journal_mode")
                level = await connection.exec_driver_sql("PRAGMA synchronous")
                return mode.scalar_one(), level.scalar_one()

            assert await run(pragma) == ("wal", 2)
    finally:
        await database.close()
