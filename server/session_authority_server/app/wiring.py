"""Compose a server's parts and use-cases over a database."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.event_transmitter import read_transmitter
from session_authority_server.app.grpc_server import host_name, new_host
from session_authority_server.app.process import CannotStart
from session_authority_server.app.upkeep import erases_at_end
from session_authority_server.background.activity import Activity
from session_authority_server.background.superseded import SupersededTokens
from session_authority_server.config import Settings
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.receiver import EventType
from session_authority_server.domain.session import Session
from session_authority_server.observability.metrics import SUPERSEDED_TOKENS
from session_authority_server.ports.store import NO_AUDIT, Audit, Locate, SessionStore, nowhere
from session_authority_server.rpc.authentication import (
    Authenticate,
    Caller,
    Metadata,
    RejectedTokens,
)
from session_authority_server.rpc.call_queue import GRPCIO_BATCH_PAUSE_SECONDS, CallQueue
from session_authority_server.rpc.certificates import Certificates
from session_authority_server.rpc.dispatcher import Dispatcher
from session_authority_server.rpc.host import Health, Host
from session_authority_server.rpc.session_admin_service import SessionAdminService
from session_authority_server.rpc.session_event_service import SessionEventService
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.rpc.session_watch_service import (
    SessionWatchService,
    encode_changes,
    encode_pong,
)
from session_authority_server.store.database import Database
from session_authority_server.store.event_streams import SqlEventStreamStore
from session_authority_server.store.outbox import SqlOutbox
from session_authority_server.store.reporting import Reporter
from session_authority_server.store.sessions import SqlSessionStore
from session_authority_server.usecases.context import Context
from session_authority_server.usecases.event_streams import EventStreams
from session_authority_server.watch.channel import Channel
from session_authority_server.watch.hub import Hub
from session_authority_server.watch.sqlite_channel import SqliteChannel

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing


def count_superseded(_session: Session) -> None:
    """Count the use of a superseded token."""
    SUPERSEDED_TOKENS.inc()


def usecase_context(
    store: SessionStore,
    clock: Clock,
    policy: Policy,
    audit: Audit = NO_AUDIT,
    locate: Locate = nowhere,
    reporter: Reporter | None = None,
) -> Context:
    """Create the objects that every use-case needs (`Context`). They keep their data in the given store."""
    return Context(
        store=store,
        clock=clock,
        policy=policy,
        audit=audit,
        activity=Activity(store, clock, policy),
        superseded=SupersededTokens(
            store,
            clock,
            policy,
            count_superseded,
            lambda: reporter is not None and EventType.SUPERSEDED_TOKEN_USED in reporter.wanted(),
        ),
        locate=locate,
    )


@dataclass(frozen=True, slots=True)
class Server:
    """The parts of a server that start and drain."""

    host: Host
    health: Health
    hub: Hub
    channel: Channel
    watch_service: SessionWatchService
    context: Context


def new_server(
    settings: Settings,
    database: Database,
    skew: ClockSkew,
    audit: Audit,
    authenticate: Authenticate,
    tls_certificates: Certificates | None,
    *,
    share_port: bool,
    tracing: "Tracing | None" = None,
    locate: Locate = nowhere,
    reporter: Reporter | None = None,
) -> Server:
    """Return the parts of a server over an open database, without starting them.

    Raises:
        CannotStart: If the settings name something that can't be used.
    """
    clock, policy = skew.clock, settings.policy
    channel, listener = _channel(settings, database)
    store = SqlSessionStore(
        database,
        erases_at_end=erases_at_end(policy),
        listener=listener,
        audit=audit,
        reporter=reporter,
    )
    context = usecase_context(store, clock, policy, audit, locate, reporter)
    streams = EventStreams(
        store=SqlEventStreamStore(database),
        outbox=SqlOutbox(database),
        clock=clock,
        configured=read_transmitter(settings),
        audit=audit,
    )
    rejected = RejectedTokens(clock, settings.rejected_tokens_per_minute)
    refuse_if_lost = _refusing_lost_endings(database)
    authenticate = _refusing_wrong_clock(authenticate, skew, refuse_if_lost)
    hub = Hub(channel, encode_changes, encode_pong(policy.cache_lease), time.monotonic)
    watch_service = SessionWatchService(hub, authenticate)
    dispatcher = Dispatcher(
        SessionService(context, rejected),
        [SessionAdminService(context), SessionEventService(streams)],
        authenticate,
        CallQueue(
            running_limit=settings.max_in_flight_calls,
            batch_pause_seconds=GRPCIO_BATCH_PAUSE_SECONDS
            if host_name(settings) == "grpcio"
            else 0.0,
        ),
        rejected,
        tracing,
        refuse_if_lost,
    )
    health = Health()
    host = new_host(
        settings, dispatcher, watch_service.streams, health, tls_certificates, share_port=share_port
    )
    return Server(host, health, hub, channel, watch_service, context)


def _refusing_wrong_clock(
    authenticate: Authenticate, skew: ClockSkew, refuse_if_lost: Callable[[], None]
) -> Authenticate:
    """Wrap an authentication so that it refuses every caller while the server must not serve. Open streams then end."""

    def authenticate_while_serving(method: str, metadata: Metadata) -> Caller:
        skew.refuse_if_wrong()
        refuse_if_lost()
        return authenticate(method, metadata)

    return authenticate_while_serving


def _refusing_lost_endings(database: Database) -> Callable[[], None]:
    """Return a function that raises while the database lacks acknowledged endings."""
    fence = database.fence

    def refuse_if_lost() -> None:
        if fence is not None and fence.lost is not None:
            raise fence.lost

    return refuse_if_lost


def _channel(settings: Settings, database: Database) -> tuple[Channel, SqliteChannel | None]:
    """Return the channel of changes, and with SQLite, the listener for changes of this process.

    Raises:
        CannotStart: If the settings alone show that the channel can't be used.
    """
    if settings.sqlite_path is not None:
        local_channel = SqliteChannel(lambda: database.write(_run_no_statement))
        return local_channel, local_channel
    from session_authority_server.watch.postgresql_channel import PostgresqlChannel

    listen_url = settings.watch_database_url or settings.database_url
    try:
        return PostgresqlChannel(settings.database_url, listen_url), None
    except ValueError as error:
        raise CannotStart(f"SESSION_AUTHORITY_WATCH_DATABASE_URL can't be used: {error}") from None


async def _run_no_statement(_connection: AsyncConnection) -> None:
    pass
