"""The one place where the parts are put together."""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority.v1 import (
    session_admin_service_pb2,
    session_service_pb2,
    session_watch_service_pb2,
)
from session_authority.v1.session_admin_service_pb2_grpc import (
    add_SessionAdminServiceServicer_to_server,
)
from session_authority.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from session_authority.v1.session_watch_service_pb2_grpc import (
    add_SessionWatchServiceServicer_to_server,
)
from session_authority_server import development_key
from session_authority_server.audit.log import AuditLog
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.clock_skew import ClockSkew
from session_authority_server.config import STANDARD_OUTPUT, Settings, is_loopback, split_address
from session_authority_server.domain.clock import Clock, SystemClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.privacy import EraseAddresses
from session_authority_server.domain.session import Session
from session_authority_server.domain.user_agent import warm_up
from session_authority_server.metrics import SUPERSEDED_TOKENS
from session_authority_server.rpc import accepting
from session_authority_server.rpc.authentication import Authenticate, Authentication, anybody
from session_authority_server.rpc.certificates import (
    CertificateFiles,
    Certificates,
    UnusableCertificates,
)
from session_authority_server.rpc.health import Health
from session_authority_server.rpc.interceptor import (
    BATCH_REQUEST_LIMIT_BYTES,
    DEADLINE_SECONDS,
    CallInterceptor,
)
from session_authority_server.rpc.io_threads import yield_to_the_loop
from session_authority_server.rpc.rejected_tokens import RejectedTokens
from session_authority_server.rpc.session_admin_service import AdminUseCases, SessionAdminService
from session_authority_server.rpc.session_service import SessionService, UseCases
from session_authority_server.rpc.session_watch_service import (
    SessionWatchService,
    encode_changes,
    encode_pong,
)
from session_authority_server.store import schema
from session_authority_server.store.coalescer import CoalescedReads
from session_authority_server.store.database import Database, reason_of
from session_authority_server.store.protocol import SessionStore
from session_authority_server.store.server_lock import ServerLock
from session_authority_server.store.sql_key_store import SqlKeyStore
from session_authority_server.store.sql_store import SqlSessionStore
from session_authority_server.store.upkeep import SqlUpkeepStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.audit import NOWHERE, Audit
from session_authority_server.usecases.create_session import CreateSession
from session_authority_server.usecases.erase_user import EraseUser
from session_authority_server.usecases.keyring import Keyring
from session_authority_server.usecases.list_sessions import ListSessions
from session_authority_server.usecases.reauthenticate_session import ReauthenticateSession
from session_authority_server.usecases.revoke_all_sessions import RevokeAllSessions
from session_authority_server.usecases.revoke_key_sessions import RevokeKeySessions
from session_authority_server.usecases.revoke_one_session import RevokeOneSession
from session_authority_server.usecases.revoke_other_sessions import RevokeOtherSessions
from session_authority_server.usecases.revoke_session import RevokeSession
from session_authority_server.usecases.revoke_user_sessions import RevokeUserSessions
from session_authority_server.usecases.sign_out import SignOut
from session_authority_server.usecases.superseded import SupersededTokens
from session_authority_server.usecases.validate_sessions import (
    BatchValidateSessions,
    ValidateSession,
)
from session_authority_server.watch.channel import Channel
from session_authority_server.watch.hub import Hub
from session_authority_server.watch.in_process import InProcessChannel
from session_authority_workers.erase import Erase
from session_authority_workers.expire import Expire
from session_authority_workers.partition import Partition
from session_authority_workers.purge import Purge
from session_authority_workers.schedule import Schedule, watch_backlog

_PACKAGE = session_service_pb2.DESCRIPTOR.package
_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name
_ADMIN_SERVICE = session_admin_service_pb2.DESCRIPTOR.services_by_name[
    "SessionAdminService"
].full_name
_WATCH_SERVICE = session_watch_service_pb2.DESCRIPTOR.services_by_name[
    "SessionWatchService"
].full_name

# How many calls may wait in gRPC to be taken on; from the first number on some are refused.
PENDING_CALLS = 64
PENDING_CALLS_LIMIT = 96
STREAMS_OF_A_CONNECTION = 48  # less than may wait, so that a single client is never refused
_ACCEPT_LOOP_SECONDS = 0.5  # how often gRPC is asked whether it still takes calls on
_log = structlog.get_logger("session_authority")


class CannotStart(Exception):
    """The server or worker can't start; the message says why, and what to do."""


class StoppedServing(Exception):
    """gRPC takes no more calls on, though nobody told it to stop."""

    def __init__(self) -> None:
        super().__init__("gRPC stopped taking calls on, as the log says; start the server anew")


class Served(NamedTuple):
    """A server that answers.

    Attributes:
        address: Where.
        activity: What it gathers of the use of sessions until it is written.
        check_streams: Ends at once the streams of those who may watch no longer.
    """

    address: str
    activity: Activity
    check_streams: Callable[[], None]


def count_superseded(_session: Session) -> None:
    """Count the use of a superseded token."""
    SUPERSEDED_TOKENS.inc()


def usecases(
    store: SessionStore,
    clock: Clock,
    policy: Policy,
    activity: Activity,
    audit: Audit = NOWHERE,
    superseded: SupersededTokens | None = None,
) -> UseCases:
    """Return the use-cases over a store, telling an audit log what they did."""
    reads = CoalescedReads(store.read_sessions)
    if superseded is None:
        superseded = SupersededTokens(store, clock, policy, count_superseded, audit)
    return UseCases(
        create=CreateSession(store, clock, policy, audit),
        validate=ValidateSession(reads.read, clock, activity, superseded, audit),
        batch_validate=BatchValidateSessions(store, clock, activity, superseded, audit),
        list=ListSessions(store, clock, policy, superseded, audit),
        revoke=RevokeSession(store, clock, policy, superseded, audit),
        revoke_others=RevokeOtherSessions(store, clock, policy, superseded, audit),
        sign_out=SignOut(store, clock, policy, audit),
        reauthenticate=ReauthenticateSession(store, clock, policy, superseded, audit),
    )


def admin_usecases(
    store: SessionStore, clock: Clock, policy: Policy, audit: Audit = NOWHERE
) -> AdminUseCases:
    """Return the operators' use-cases over a store, telling an audit log what they did."""
    return AdminUseCases(
        revoke_user=RevokeUserSessions(store, clock, policy, audit),
        revoke_all=RevokeAllSessions(store, clock, policy, audit),
        revoke_one=RevokeOneSession(store, clock, policy, audit),
        revoke_key=RevokeKeySessions(store, clock, policy, audit),
        erase_user=EraseUser(store, clock, policy, audit),
    )


def schedule(
    database: Database, settings: Settings, clock: Clock, audit: Audit = NOWHERE
) -> Schedule:
    """Return the upkeep's schedule over a database."""
    interval = timedelta(seconds=settings.worker_interval_seconds)
    expire, erase, partition, purge = jobs(database, settings, clock, audit)
    return Schedule(expire, [erase, partition, purge], clock, interval)


def jobs(
    database: Database, settings: Settings, clock: Clock, audit: Audit = NOWHERE
) -> tuple[Expire, Erase, Partition, Purge]:
    """Return the upkeep's jobs over a database, in the order in which each finds the most done."""
    policy = settings.policy
    store = SqlUpkeepStore(database, erases_at_end=_erases_at_end(policy))
    return (
        Expire(store, clock, audit=audit),
        Erase(store),
        Partition(store, clock, policy),
        Purge(store, clock, policy),
    )


@contextlib.asynccontextmanager
async def auditing(settings: Settings, standard_output: int = 1) -> AsyncIterator[Audit]:
    """Tell the audit log what happens for as long as the context lasts, and until it has all been written.

    Args:
        settings: Where to, if anywhere.
        standard_output: The file descriptor that stands for it.

    Raises:
        CannotStart: If it can't be written to.
    """
    where = settings.audit_log
    if not where:
        yield NOWHERE
        return
    try:
        output = Descriptor(standard_output) if where == STANDARD_OUTPUT else File(Path(where))
    except OSError as error:
        raise CannotStart(
            f"the audit log {where} can't be written: {error.strerror}; set SESSION_AUTHORITY_AUDIT_LOG to another "
            "path, or to - for standard output"
        ) from None
    audit = AuditLog(output, SystemClock(), addresses=settings.audit_addresses)
    try:
        yield audit
    finally:
        await asyncio.to_thread(audit.close)


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, make_schema: bool = False) -> AsyncIterator[Database]:
    """Open a database whose schema is one that this program works with.

    Args:
        settings: Which database.
        make_schema: Whether to make the schema where there is none at all.

    Raises:
        CannotStart: If the database can't be opened, or its schema is another.
    """
    database = database_of(settings, must_exist=not make_schema)
    try:
        try:
            version = await schema.read_version(database)
            if version.current is None and make_schema:
                await schema.migrate(database)
            elif not version.serves:
                raise CannotStart(
                    f"the schema of {settings.database} is {version.current or 'missing'}, and this program works "
                    f"with {version.wanted}; {version.remedy}"
                )
            elif not version.is_current:
                _log.info("the schema is of a newer release", schema=version.current)
        except StoreUnavailable as error:
            raise cannot_use(settings, error) from None
        yield database
    finally:
        await database.close()


async def refuse_lack(settings: Settings, database: Database) -> None:
    """Refuse to use a database in which every call would fail, though its schema's version is right.

    Raises:
        CannotStart: If a table, a column or a right is missing.
    """
    try:
        lack = await schema.read_lack(database)
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None
    if lack is not None:
        raise CannotStart(f"the database {settings.database} can't be used: {lack}")


def database_of(settings: Settings, *, must_exist: bool, read_only: bool = False) -> Database:
    """Return the database that the settings name, not yet connected to.

    Args:
        settings: Which database.
        must_exist: Whether a file that is not there is not to be made.
        read_only: Whether a file is to be opened without the means to change it, or to keep others waiting.

    Raises:
        CannotStart: If it is plain already that it can't be used.
    """
    path = settings.sqlite_path
    if path is None:
        try:
            return Database.postgresql(settings.database_url)
        except ImportError:
            raise CannotStart(
                "PostgreSQL needs its driver; run: pip install 'session-authority[server,postgres]'"
            ) from None
        except ValueError:
            raise CannotStart(
                f"{settings.database} is no address of a database; give "
                "postgresql://user:password@host:port/database, with what is not a letter, digit or "
                "one of -._~ in a password as %XX"
            ) from None
    if not path.parent.is_dir():
        raise CannotStart(f"there is no folder {path.parent} for the database; make it first")
    if must_exist and not path.exists():
        raise CannotStart(
            f"there is no database {path}; name it in SESSION_AUTHORITY_DATABASE_URL, or make it "
            "with: session-authority migrate"
        )
    if not path.exists():
        path.touch(mode=0o600)  # addresses and names are nobody else's to read
    return Database.sqlite(path, read_only=read_only)


def cannot_use(settings: Settings, error: StoreUnavailable) -> CannotStart:
    """Return what to tell an operator whose database doesn't answer."""
    return CannotStart(
        f"the database {settings.database} can't be used: {reason_of(error.__cause__)}"
    )


def refuse_exposure(settings: Settings, *, insecure: bool, allow_plaintext: bool = False) -> None:
    """Refuse to serve beyond this machine without encryption, unless that is what was asked for.

    Raises:
        CannotStart: If other machines could reach the address, and listen in on the way.
    """
    if not (
        settings.tls_certificate or allow_plaintext or insecure or is_loopback(settings.listen)
    ):
        raise CannotStart(
            f"{settings.listen} can be reached from other machines, and calls would not be encrypted; set "
            "SESSION_AUTHORITY_TLS_CERTIFICATE and SESSION_AUTHORITY_TLS_KEY, listen on 127.0.0.1, or give "
            "--allow-plaintext where something in front encrypts (--insecure for a network without secrets)"
        )


def certificates(settings: Settings) -> Certificates | None:
    """Return the certificates to serve with, where the operator gave some.

    Raises:
        CannotStart: If they can't be used.
    """
    if not settings.tls_certificate:
        return None
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    files = CertificateFiles(Path(settings.tls_certificate), Path(settings.tls_key), client_ca)
    try:
        return Certificates(files)
    except UnusableCertificates as error:
        raise CannotStart(
            f"{error}; see SESSION_AUTHORITY_TLS_CERTIFICATE, SESSION_AUTHORITY_TLS_KEY and "
            "SESSION_AUTHORITY_TLS_CLIENT_CA"
        ) from None


def cannot_listen(address: str) -> CannotStart:
    """Return what to tell an operator whose address is taken or not this machine's."""
    return CannotStart(
        f"{address} can't be listened on; is another program using it? Set "
        "SESSION_AUTHORITY_LISTEN to another address, or to port 0 for a free one"
    )


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    *,
    worker: bool,
    insecure: bool,
    allow_plaintext: bool = False,
    share_port: bool = False,
    show_key: Callable[[str], None] = lambda _key: None,
    standard_output: int = 1,
    clock: Clock | None = None,
    authenticate: Authenticate | None = None,
) -> AsyncIterator[Served]:
    """Serve until the context is left, and then drain.

    Args:
        settings: What the operator set.
        worker: Whether to run the upkeep in this process too.
        insecure: Whether to serve without encryption beyond this machine, and without API keys.
        allow_plaintext: Whether something in front encrypts what comes from beyond this machine.
        share_port: Whether other processes of the same user may listen on the same port.
        show_key: Is told the development key, should one be made.
        standard_output: The file descriptor that stands for it in the audit log's setting.
        clock: Where all parts take the time from; the machine's unless given.
        authenticate: Who may call, in place of those who have an API key.

    Raises:
        CannotStart: If the address, the certificates or the database can't be used.
        AlreadyServed: If another process serves the same SQLite file.
        StoppedServing: If gRPC stopped by itself, at the end.
    """
    refuse_exposure(settings, insecure=insecure, allow_plaintext=allow_plaintext)
    shown = certificates(settings)
    path = settings.sqlite_path
    clock = clock or SystemClock()
    if insecure:
        _log.warning(
            "--insecure: no API key is asked for, and anybody who gets here may do everything"
        )
        authenticate = anybody
    async with contextlib.AsyncExitStack() as stack:
        if path is not None:
            _be_only_server_of(path, stack)
        # Before the database, which at the end waits for the transactions that are to be told.
        audit = await stack.enter_async_context(auditing(settings, standard_output))
        # An empty file is made ready; a server that others share is migrated when its operator says so.
        database = await stack.enter_async_context(opened(settings, make_schema=path is not None))
        await refuse_lack(settings, database)
        warm_up()
        channel, listener = _channel(settings, database)
        store = SqlSessionStore(
            database, erases_at_end=_erases_at_end(settings.policy), listener=listener
        )
        activity = Activity(store, clock, settings.policy)
        rejected = RejectedTokens(clock, settings.rejected_tokens_per_minute)
        superseded = SupersededTokens(store, clock, settings.policy, count_superseded, audit)
        cases = usecases(store, clock, settings.policy, activity, audit, superseded)
        service = SessionService(cases, clock, rejected)
        admin_service = SessionAdminService(admin_usecases(store, clock, settings.policy, audit))
        keys = keyring = None
        if authenticate is None:
            keys = _key_store(settings, database, stack)
            keyring = Keyring(keys, clock)
            authenticate = Authentication(keyring)
        hub = Hub(channel, encode_changes, encode_pong(settings.policy.cache_lease), time.monotonic)
        watch_service = SessionWatchService(hub, authenticate)
        interceptor = CallInterceptor(
            _PACKAGE,
            authenticate,
            max_in_flight_calls=settings.max_in_flight_calls,
            rejected=rejected,
        )
        server, healthy = _server(
            service,
            admin_service,
            watch_service,
            interceptor,
            share_port=share_port,
            calls_limit=max(accepting.CALLS_LIMIT, 4 * settings.max_in_flight_calls),
        )
        address = _bind(server, settings.listen, shown)
        stack.enter_context(metrics(settings))
        stack.push_async_callback(_flush, activity)
        stack.push_async_callback(superseded.settle)
        if keys is not None and keyring is not None:
            await _make_first_key(settings, keys, clock, audit, show_key)
            await keyring.refresh()
            for ever in (keyring.keep_current(), keyring.keep_uses_written()):
                stack.callback(asyncio.create_task(ever).cancel)
        expire, *_ = jobs(database, settings, clock)
        for ever in (
            activity.run(),
            ClockSkew(database, clock).watch(),
            watch_backlog(expire, clock),
            channel.run(hub),
            hub.run(),
            watch_service.keep_checking(),
        ):
            stack.callback(asyncio.create_task(ever).cancel)
        if worker:
            upkeep = schedule(database, settings, clock, audit)
            upkeep.start()
            stack.push_async_callback(upkeep.stop)
        await server.start()
        yield_to_the_loop()
        served = asyncio.create_task(_served(server))
        stack.push_async_callback(_drain, server, healthy, hub, settings.drain_seconds, served)
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        for name in (_SERVICE, _ADMIN_SERVICE, _WATCH_SERVICE):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        yield Served(address, activity, watch_service.check)
        if served.done():
            raise StoppedServing


def calm_garbage_collector() -> None:
    """Have the garbage collector look rarely, and not at what was made at the start.

    A call leaves hardly any cycles but makes many objects: by default, every tenth call would pay for a
    collection (docs/performance.md). For the process of a server, not for a library's user.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def until_told_to_stop() -> None:
    """Wait for SIGTERM or SIGINT.

    A further SIGTERM changes nothing: supervisors send it more than once, and draining takes a bounded
    time. A further SIGINT interrupts, for whoever sits in front of it.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _erases_at_end(policy: Policy) -> bool:
    return policy.erase_addresses is EraseAddresses.AT_END


def _be_only_server_of(path: Path, stack: contextlib.AsyncExitStack) -> None:
    if not path.parent.is_dir():
        raise CannotStart(f"there is no folder {path.parent} for the database; make it first")
    try:
        stack.enter_context(ServerLock(path))
    except OSError as error:
        raise CannotStart(f"the folder {path.parent} can't be written to: {error}") from None


def _channel(settings: Settings, database: Database) -> tuple[Channel, InProcessChannel | None]:
    """Return what brings the changes that caches must hear of, and who is to be told of those made here.

    Raises:
        CannotStart: If it is plain already that it can't be used.
    """
    if settings.sqlite_path is not None:
        here = InProcessChannel(lambda: database.write(_nothing))
        return here, here
    from session_authority_server.watch.notifications import NotificationChannel

    listen_url = settings.watch_database_url or settings.database_url
    try:
        return NotificationChannel(settings.database_url, listen_url), None
    except ValueError:
        raise CannotStart(
            "SESSION_AUTHORITY_WATCH_DATABASE_URL is no address of a database; give "
            "postgresql://user:password@host:port/database"
        ) from None


async def _nothing(_connection: AsyncConnection) -> None:
    pass


def _key_store(
    settings: Settings, database: Database, stack: contextlib.AsyncExitStack
) -> SqlKeyStore:
    # Reads of its own, which no crowd of other calls keeps waiting until the keys are no longer believed.
    aside = database_of(settings, must_exist=True)
    stack.push_async_callback(aside.close)
    return SqlKeyStore(database, reads_from=aside)


async def _make_first_key(
    settings: Settings,
    keys: SqlKeyStore,
    clock: Clock,
    audit: Audit,
    show_key: Callable[[str], None],
) -> None:
    """Where there has never been a key, make one for development beside a SQLite file, and else ask for one."""
    if await keys.read_keys():
        return
    path = settings.sqlite_path
    if path is None:
        _log.warning(
            "there is no API key, so every call is refused; make one: session-authority keys create"
        )
        return
    try:
        key = await development_key.make(path, keys, clock.now(), audit)
    except OSError as error:
        raise CannotStart(
            f"the development key {development_key.key_file(path)} can't be written: {error.strerror}"
        ) from None
    show_key(key)


def _server(
    service: SessionService,
    admin_service: SessionAdminService,
    watch_service: SessionWatchService,
    interceptor: CallInterceptor,
    *,
    share_port: bool,
    calls_limit: int,
) -> tuple[grpc.aio.Server, Health]:
    server = accepting.server(
        _PACKAGE,
        interceptors=[interceptor],
        options=[
            ("grpc.so_reuseport", int(share_port)),
            # Twice what is allowed, so that what is too large is refused with a reason.
            ("grpc.max_receive_message_length", 2 * BATCH_REQUEST_LIMIT_BYTES),
            ("grpc.max_metadata_size", 16 * 1024),
            # gRPC refuses these by itself, for a twentieth of what a call costs. Its own limits, thousands,
            # would have calls wait for seconds.
            ("grpc.server.max_pending_requests", PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_LIMIT),
            # Beyond, calls wait in the client. What gRPC calls overload protection would refuse a client's
            # next call because Python has not yet let go of its last one.
            ("grpc.max_concurrent_streams", STREAMS_OF_A_CONNECTION),
            ("grpc.http.overload_protection", 0),
            # Who pings more often than this three times is hung up on.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
            # Who is gone without a word is noticed, and who never shakes hands.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.server_handshake_timeout_ms", 5_000),
        ],
        calls_limit=calls_limit,
    )
    add_SessionServiceServicer_to_server(service, server)
    add_SessionAdminServiceServicer_to_server(admin_service, server)
    add_SessionWatchServiceServicer_to_server(watch_service, server)
    healthy = Health()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    names = (_SERVICE, _ADMIN_SERVICE, _WATCH_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server, healthy


def _bind(server: grpc.aio.Server, address: str, shown: Certificates | None) -> str:
    try:
        if shown is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, shown.credentials())
    except RuntimeError:
        raise cannot_listen(address) from None
    return f"{address.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def metrics(settings: Settings) -> Iterator[None]:
    """Serve metrics for the while, if the operator said where.

    Raises:
        CannotStart: If the address can't be used.
    """
    address = settings.metrics_listen
    if not address:
        yield
        return
    host, port = split_address(address)
    try:
        server, thread = start_http_server(port, addr=host)
    except OSError as error:
        raise CannotStart(
            f"metrics can't be served on {address}: {error.strerror}; set "
            "SESSION_AUTHORITY_METRICS_LISTEN to another address"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _served(server: grpc.aio.Server) -> None:
    """Wait for the end of gRPC's accept loop, which nothing should bring about, and have the process stop.

    Whoever keeps it, a supervisor or `--processes`, then starts one anew. Left alone, it would live on and
    refuse every connection.
    """
    # Asked again and again: the end alone is not told before the last of the calls under way has ended.
    with contextlib.suppress(Exception):  # gRPC has logged it
        while await server.wait_for_termination(_ACCEPT_LOOP_SECONDS):
            pass
    _log.critical("gRPC takes no more calls on; stopping, to be started anew")
    signal.raise_signal(signal.SIGTERM)


async def _drain(
    server: grpc.aio.Server,
    healthy: Health,
    hub: Hub,
    grace_seconds: float,
    served: "asyncio.Task[None]",
) -> None:
    if served.done():
        # What gRPC never took on would be waited for too. The calls that it did take on have this long.
        grace_seconds = min(grace_seconds, DEADLINE_SECONDS)
    served.cancel()
    await healthy.drain()
    hub.drain()
    await server.stop(grace_seconds)


async def _flush(activity: Activity) -> None:
    try:
        await activity.flush()
    except StoreUnavailable:
        _log.error("activity could not be written at the end", sessions=len(activity))
