"""Databases that are restored or replaced under load, for a campaign on the fence."""

import asyncio
import contextlib
import random
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import UUID

import grpc
import psycopg

from session_authority.v1 import (
    session_admin_service_pb2,
    session_admin_service_pb2_grpc,
    session_service_pb2_grpc,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain.token import parse_proof
from tests.support import postgresql
from tests.support.postgresql import Cluster
from tests.support.program import Program, serving
from tests.support.status import reason_of

ROWS = """SELECT session_id, secret_hash, end_time IS NOT NULL OR s.user_epoch < u.epoch OR s.global_epoch < a.epoch
FROM sessions s JOIN users u ON u.user_id = s.user_id CROSS JOIN authority a"""
CALLERS = 6
DEADLINE_SECONDS = 5.0
RECOVERY_SECONDS = 120.0
_EXPECTED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # on a busy machine
}


class Row(NamedTuple):
    """The state of a session in a database."""

    secret_hash: bytes
    has_ended: bool


class Answered(NamedTuple):
    """An answered ending: a token that is rejected from now on, and the token that replaced it, if any."""

    token: str
    newer: str | None = None

    def is_in(self, rows: Mapping[UUID, Row]) -> bool:
        row = rows.get(id_of(self.token))
        if row is None:
            return False
        newer = None if self.newer is None else parse_proof(self.newer)
        return row.has_ended or (newer is not None and row.secret_hash == newer.secret_hash)


def id_of(token: str) -> UUID:
    proof = parse_proof(token)
    assert proof is not None
    return proof.id


@dataclass
class Load:
    """Callers of one server that sign users in and, if `ends`, end their sessions. A checker looks for revived ones.

    Attributes:
        live: The tokens that no call was asked to end.
        answered: The endings that were answered.
        ends: Whether callers end sessions.
    """

    random: random.Random
    live: set[str] = field(default_factory=set)
    answered: list[Answered] = field(default_factory=list)
    ends: bool = True
    _users: int = 0

    async def call_until(self, server: "Stubs", stopped: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(self._call_until(server, stopped))

    async def check_until(self, server: "Stubs", stopped: asyncio.Event) -> None:
        """Ask about ended sessions. No answer may ever accept one."""
        while not stopped.is_set():
            if self.answered:
                token = self.random.choice(self.answered[-200:]).token
                assert await server.accepts(token) is not True, "a revived session was accepted"
            await asyncio.sleep(0.002)

    async def _call_until(self, server: "Stubs", stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            try:
                await self._use(server)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _EXPECTED:
                    raise
                await asyncio.sleep(0.02)

    async def _use(self, server: "Stubs") -> None:
        self._users += 1
        user_id = f"user-{self._users}-{secrets.token_hex(4)}"
        own, *others = [await server.create(user_id) for _ in range(3)]
        self.live.update((own, *others))
        if not self.ends:
            return
        end = self.random.choice(
            (self._sign_out, self._revoke, self._revoke_others, self._renew, self._revoke_user)
        )
        await end(server, user_id, own, others)

    async def _sign_out(self, server: "Stubs", _user: str, own: str, _others: list[str]) -> None:
        await self._ending([own], server.sign_out(own))

    async def _revoke(self, server: "Stubs", _user: str, own: str, others: list[str]) -> None:
        await self._ending(others[:1], server.revoke(own, others[0]))

    async def _revoke_others(
        self, server: "Stubs", _user: str, own: str, others: list[str]
    ) -> None:
        await self._ending(others, server.revoke_others(own))

    async def _revoke_user(self, server: "Stubs", user: str, own: str, others: list[str]) -> None:
        await self._ending([own, *others], server.revoke_user(user))

    async def _renew(self, server: "Stubs", _user: str, own: str, _others: list[str]) -> None:
        self.live.discard(own)
        self.answered.append(Answered(own, await server.renew(own)))

    async def _ending(self, tokens: list[str], call: Awaitable[object]) -> None:
        self.live.difference_update(tokens)
        await call
        self.answered += map(Answered, tokens)


class Stubs:
    """Calls of a server, without retries."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        self._admin: Any = session_admin_service_pb2_grpc.SessionAdminServiceStub(channel)

    async def create(self, user_id: str) -> str:
        request = pb.CreateSessionRequest(user_id=user_id, retry_secret=secrets.token_bytes(32))
        answer = await self._sessions.CreateSession(request, timeout=DEADLINE_SECONDS)
        return str(answer.session_token)

    async def accepts(self, token: str) -> bool | str:
        """Return whether a token is accepted, or the reason of an error."""
        request = pb.ValidateSessionRequest(session_token=token)
        try:
            answer = await self._sessions.ValidateSession(request, timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _EXPECTED:
                raise
            return reason_of(error) or error.code().name
        return bool(answer.HasField("session"))

    async def sign_out(self, token: str) -> None:
        request = pb.SignOutRequest(session_token=token)
        await self._sessions.SignOut(request, timeout=DEADLINE_SECONDS)

    async def revoke(self, token: str, target: str) -> None:
        request = pb.RevokeSessionRequest(session_token=token, session_id=str(id_of(target)))
        await self._sessions.RevokeSession(request, timeout=DEADLINE_SECONDS)

    async def revoke_others(self, token: str) -> None:
        request = pb.RevokeOtherSessionsRequest(session_token=token)
        await self._sessions.RevokeOtherSessions(request, timeout=DEADLINE_SECONDS)

    async def renew(self, token: str) -> str:
        request = pb.ReauthenticateSessionRequest(session_token=token)
        answer = await self._sessions.ReauthenticateSession(request, timeout=DEADLINE_SECONDS)
        return str(answer.session_token)

    async def revoke_user(self, user_id: str) -> None:
        request = session_admin_service_pb2.RevokeUserSessionsRequest(user_id=user_id)
        await self._admin.RevokeUserSessions(request, timeout=DEADLINE_SECONDS)


@dataclass
class Served:
    """A server that the campaign starts and stops."""

    folder: Path
    settings: dict[str, str]
    program: Program | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        self.program = self._stack.enter_context(serving(self.folder, settings=self.settings))

    def stop(self, *, at_once: bool) -> None:
        assert self.program is not None
        if at_once:
            self.program.kill()
        else:
            assert self.program.stop() == 0, self.program.stderr
        self._stack.close()
        self.program = None

    @contextlib.asynccontextmanager
    async def stubs(self) -> AsyncIterator[Stubs]:
        assert self.program is not None
        options = [("grpc.enable_retries", 0), ("grpc.initial_reconnect_backoff_ms", 100)]
        async with grpc.aio.insecure_channel(self.program.address, options) as channel:
            yield Stubs(channel)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def rows_of_sqlite(file: Path) -> dict[UUID, Row]:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return {
            UUID(bytes=key): Row(secret, bool(ended))
            for key, secret, ended in connection.execute(ROWS)
        }


def rows_of_postgresql(cluster: Cluster) -> dict[UUID, Row]:
    with psycopg.connect(cluster.url()) as connection:
        return {key: Row(secret, ended) for key, secret, ended in connection.execute(ROWS)}


@dataclass
class Databases:
    """A PostgreSQL primary that a backup or a standby replaces, round after round. Each round keeps the addresses."""

    primary: Cluster
    spare_port: int

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Self]:
        with postgresql.cluster(wal_keep_size="2GB", max_wal_size="4GB") as primary:
            made = cls(primary, postgresql.free_port())
            try:
                yield made
            finally:
                made.primary.stop(at_once=True)
                if made.primary is not primary:
                    shutil.rmtree(made.primary.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.spare_port}"
        return f"postgresql://postgres@{hosts}/postgres"

    def back_up(self, name: str = "") -> Cluster:
        """Take a base backup. Return a cluster on it, which is not started."""
        place = postgresql.new_folder()
        copy = Cluster(place, self.spare_port, self.primary.binaries, self.primary.options)
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres application_name={name or 'copy'}"
        postgresql.run_as_owner(
            [
                *(copy.binaries / "pg_basebackup", "-D", place / "data", "-d", source),
                *("--checkpoint=fast", "--no-sync"),
                *(("--write-recovery-conf",) if name else ()),
            ]
        )
        return copy

    def replace_by(self, copy: Cluster, *, lsn: int | None = None) -> None:
        """Put a backup in the place of the stopped primary, and recover to a position of its log."""
        copy.port = self.primary.port
        recovery: dict[str, str] = {}
        if lsn is not None:
            signal = copy.folder / "data" / "recovery.signal"
            postgresql.run_as_owner(["/usr/bin/touch", signal])
            recovery = {
                "restore_command": f"cp {self.primary.folder}/data/pg_wal/%f %p",
                "recovery_target_lsn": f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}",
                "recovery_target_action": "promote",
            }
        kept, copy.options = copy.options, copy.options | recovery
        copy.start()
        copy.options = kept
        self._take_over(copy)

    def start_standby(self, *, waits: bool) -> Cluster:
        """Start a standby that receives every commit. If `waits`, commits wait for it."""
        name = f"standby_{secrets.token_hex(4)}"
        standby = self.back_up(name)
        standby.start()
        if waits:
            self.primary.replicate_to(name)
        else:
            streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            while self.primary.psql(streaming) != "1":
                pass
        return standby

    def cut_off(self, standby: Cluster) -> None:
        """Let a standby receive no more commits."""
        standby.psql("ALTER SYSTEM SET primary_conninfo = ''")
        standby.psql("SELECT pg_reload_conf()")

    def fail_over_to(self, standby: Cluster) -> None:
        """Promote a standby of the stopped primary."""
        standby.promote()
        self.spare_port = self.primary.port
        self._take_over(standby)

    def position(self) -> int:
        return int(self.primary.psql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def _take_over(self, other: Cluster) -> None:
        old, self.primary = self.primary, other
        while other.psql("SELECT pg_is_in_recovery()") == "t":
            pass
        shutil.rmtree(old.folder, ignore_errors=True)
