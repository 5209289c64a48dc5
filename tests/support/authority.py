"""A whole authority in this process: production code, a real socket, a real file, and a manual clock."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import grpc

from session_authority import AsyncSessionClient
from session_authority.v1 import session_service_pb2_grpc
from session_authority_server.app.reporting import reporter
from session_authority_server.app.wiring import usecase_context
from session_authority_server.audit.log import AuditLog
from session_authority_server.audit.output import File
from session_authority_server.background.activity import Activity
from session_authority_server.background.event_transmitter import EventTransmitter
from session_authority_server.background.keyring import Keyring
from session_authority_server.domain import token as tokens
from session_authority_server.domain.api_key import Permission
from session_authority_server.domain.clock import ManualClock
from session_authority_server.domain.device import Device
from session_authority_server.domain.location import Location
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.session import Session
from session_authority_server.ports.store import Audit, Touch, Transaction
from session_authority_server.rpc.authentication import Authentication, RejectedTokens
from session_authority_server.rpc.call_queue import CallQueue
from session_authority_server.rpc.dispatcher import Dispatcher
from session_authority_server.rpc.session_admin_service import SessionAdminService
from session_authority_server.rpc.session_event_service import SessionEventService
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.store.database import Database
from session_authority_server.store.event_streams import SqlEventStreamStore
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_server.usecases.api_keys import ApiKeys
from session_authority_server.usecases.event_streams import EventStreams
from session_authority_workers.expire import Expire
from session_authority_workers.pace import Pace
from tests.support import engines
from tests.support.engines import migrated_sqlite, over
from tests.support.hosts import serving

PATIENCE_SECONDS = 30.0  # enough for an answer on a busy machine
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NO_HOLD_BACK = Pace(pause_share=0, safety_lag=timedelta(0))

T = TypeVar("T")


class WatchedStore(SqlSessionStore):
    """The production store. It records its calls, and tests can make its reads fail."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        *,
        erases_at_end: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        super().__init__(database, erases_at_end=erases_at_end, audit=audit, reporter=reporter)
        self.erases_at_end = erases_at_end
        self.asked: list[str] = []
        self.touches: list[Touch] = []
        self.failure: Exception | None = None

    async def read_sessions(self, session_ids: Sequence[UUID]) -> dict[UUID, Session]:
        self.asked.append("read_sessions")
        if self.failure is not None:
            raise self.failure
        return await super().read_sessions(session_ids)

    async def transact(self, work: Callable[[Transaction], Any]) -> Any:
        self.asked.append("transact")
        return await super().transact(work)

    async def touch(self, touches: Sequence[Touch], now: Callable[[], datetime]) -> int:
        self.asked.append("touch")
        self.touches += touches
        return await super().touch(touches, now)


class Bearer(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds an API key to the metadata of every request."""

    def __init__(self, key: str) -> None:
        self._header = ("authorization", f"Bearer {key}")

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return await continuation(details._replace(metadata=metadata), request)


@dataclass
class Authority:
    path: Path
    address: str
    clock: ManualClock
    database: Database
    store: WatchedStore
    activity: Activity
    client: AsyncSessionClient
    stub: "session_service_pb2_grpc.SessionServiceAsyncStub" = field(repr=False)
    audit: AuditLog
    key: str = field(repr=False)
    places: dict[str, Location]  # the locations of addresses
    keyring: Keyring

    def channel(self) -> grpc.aio.Channel:
        """Return a channel whose calls carry the API key, as the client's do."""
        return grpc.aio.insecure_channel(self.address, interceptors=[Bearer(self.key)])

    def expire(self, pace: Pace = NO_HOLD_BACK) -> Expire:
        """Return an expiry worker over the same store and clock."""
        store = SqlUpkeepStore(self.database, erases_at_end=self.store.erases_at_end)
        return Expire(store, self.clock, pace, self.audit)

    def audited(self) -> list[dict[str, Any]]:
        """Close the audit log and return its lines."""
        self.audit.close()
        return [json.loads(line) for line in (self.path.parent / "audit").read_text().splitlines()]

    def pass_time(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement on the file, over a separate connection."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    def contents(self) -> list[tuple[Any, ...]]:
        """Return every row that contains data about sessions."""
        return [
            row
            for table in ("sessions", "users", "sweeps", "authority")
            for row in self.query(f"SELECT * FROM {table} ORDER BY 1, 2")
        ]


@asynccontextmanager
async def running_authority(
    folder: Path,
    policy: Policy,
    *,
    clock: ManualClock | None = None,
    rejected_tokens_per_minute: int = 0,
    host: str = "native",
    transmitter: EventTransmitter | None = None,
) -> AsyncIterator[Authority]:
    path, clock = folder / "sessions.sqlite", clock or ManualClock(NOON)
    database = await migrated_sqlite(path)
    audit = AuditLog(File(folder / "audit"), ManualClock(NOON), addresses=True)
    keys = SqlKeyStore(database)
    keyring = Keyring(keys, clock)
    rejected = RejectedTokens(clock, rejected_tokens_per_minute)
    keeping_current: list[asyncio.Task[None]] = []
    try:
        _, key = await ApiKeys(keys, clock).create("apps", frozenset(Permission))
        await keyring.refresh()
        keeping_current.append(asyncio.create_task(keyring.keep_current()))
        at_end = policy.erase_addresses is EraseAddresses.AT_END
        reporting = None if transmitter is None else reporter(policy, clock)
        store = WatchedStore(database, audit, erases_at_end=at_end, reporter=reporting)
        places: dict[str, Location] = {}
        context = usecase_context(
            store, clock, policy, audit, lambda address: places.get(address or ""), reporting
        )
        streams = EventStreams(
            store=SqlEventStreamStore(database),
            outbox=SqlOutbox(database),
            clock=clock,
            configured=transmitter,
            audit=audit,
        )
        service = SessionService(context, rejected)
        admin = SessionAdminService(context)
        others = [admin, SessionEventService(streams)]
        dispatcher = Dispatcher(service, others, Authentication(keyring), CallQueue(), rejected)
        async with (
            serving(host, dispatcher) as address,
            AsyncSessionClient(address, api_key=key, deadline_seconds=PATIENCE_SECONDS) as client,
            grpc.aio.insecure_channel(address, interceptors=[Bearer(key)]) as raw,
        ):
            yield Authority(
                path,
                address,
                clock,
                database,
                store,
                context.activity,
                client,
                session_service_pb2_grpc.SessionServiceStub(raw),
                audit,
                key,
                places,
                keyring,
            )
    finally:
        for task in keeping_current:
            task.cancel()
        await database.close()
        audit.close()


def a_session(user_id: str, created: datetime, **changes: Any) -> tuple[Session, str]:
    """Return a session and its token, without a call to an authority."""
    token = tokens.mint(created)
    given: dict[str, Any] = {
        "secret_hash": tokens.hash_secret(token.secret),
        "device": Device("Firefox", "143", "Linux", ""),
        "ip_address": "203.0.113.7",
        "last_ip_address": "203.0.113.7",
    }
    lifetime = changes.pop("lifetime", timedelta(days=90))
    session = engines.a_session(user_id, at=created, lifetime=lifetime, session_id=token.id)
    return replace(session, **given | changes), token.encode()


async def insert_sessions(database: Database, some: Iterable[Session]) -> None:
    """Write sessions directly into the tables, which is much faster than signing in."""
    await over(database).fill(list(some))
