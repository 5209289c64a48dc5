"""The one place where the parts of a server are put together."""

import asyncio
import contextlib
import gc
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog
from grpc_health.v1 import health_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.app import development_key
from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.database import in_place, key_store, opened, refuse_lack
from session_authority_server.app.errors import CannotStart, StoppedServing
from session_authority_server.app.grpc_server import (
    bind,
    certificates,
    drain,
    new_host,
    refuse_exposure,
    served_to_its_end,
)
from session_authority_server.app.wiring import (
    erases_at_end,
    jobs,
    right_clock,
    schedule,
    usecase_context,
)
from session_authority_server.audit.log import AuditLog
from session_authority_server.audit.output import Descriptor, File
from session_authority_server.config import STANDARD_OUTPUT, Settings, split_address
from session_authority_server.domain.clock import Clock, SystemClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.user_agent import warm_up
from session_authority_server.observability.metrics_port import MetricsServer
from session_authority_server.rpc.authentication import (
    Authenticate,
    Authentication,
    Metadata,
    anybody,
)
from session_authority_server.rpc.call_queue import CallQueue
from session_authority_server.rpc.caller import Caller
from session_authority_server.rpc.dispatcher import Dispatcher
from session_authority_server.rpc.host.health import Health
from session_authority_server.rpc.methods import SERVICES
from session_authority_server.rpc.rejected_tokens import RejectedTokens
from session_authority_server.rpc.session_admin_service import SessionAdminService
from session_authority_server.rpc.session_service import SessionService
from session_authority_server.rpc.session_watch_service import (
    SessionWatchService,
    encode_changes,
    encode_pong,
)
from session_authority_server.store.database import Database
from session_authority_server.store.sql_key_store import SqlKeyStore
from session_authority_server.store.sql_store import SqlSessionStore
from session_authority_server.usecases.activity import Activity
from session_authority_server.usecases.audit import NOWHERE, Audit
from session_authority_server.usecases.keyring import Keyring
from session_authority_server.watch.channel import Channel
from session_authority_server.watch.hub import Hub
from session_authority_server.watch.sqlite_channel import SqliteChannel
from session_authority_workers.schedule import watch_backlog

_log = structlog.get_logger("session_authority")


class Served(NamedTuple):
    """A server that answers.

    Attributes:
        address: Where.
        host: The host's name.
        activity: What it gathers of the use of sessions until it is written.
        check_streams: Ends at once the streams of those who may watch no longer.
    """

    address: str
    host: str
    activity: Activity
    check_streams: Callable[[], None]


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
        clock: Where all parts take the time from. By default the database's clock, or the machine's with SQLite.
        authenticate: Who may call, in place of those who have an API key.

    Raises:
        CannotStart: If the address, the certificates or the database can't be used.
        AlreadyServed: If another process serves the same SQLite file.
        FileReplaced: If a SQLite file was moved, removed or replaced, at the end.
        StoppedServing: If gRPC stopped by itself, at the end.
    """
    refuse_exposure(settings, insecure=insecure, allow_plaintext=allow_plaintext)
    shown = certificates(settings)
    path = settings.sqlite_path
    if insecure:
        _log.warning(
            "--insecure: no API key is asked for, and anybody who gets here may do everything"
        )
        authenticate = anybody
    async with contextlib.AsyncExitStack() as stack:
        # Before the database, which at the end waits for the transactions that are to be told.
        audit = await stack.enter_async_context(auditing(settings, standard_output))
        # An empty file is made ready; a server that others share is migrated when its operator says so.
        database = await stack.enter_async_context(
            opened(settings, make_schema=path is not None, serve=True)
        )
        await stack.enter_async_context(in_place(database))
        await refuse_lack(settings, database)
        skew = ClockSkew(database, clock)
        await skew.settle()
        clock = skew.clock
        warm_up()
        channel, listener = _channel(settings, database)
        store = SqlSessionStore(
            database, erases_at_end=erases_at_end(settings.policy), listener=listener
        )
        context = usecase_context(store, clock, settings.policy, audit)
        activity = context.activity
        rejected = RejectedTokens(clock, settings.rejected_tokens_per_minute)
        service = SessionService(context, rejected)
        admin_service = SessionAdminService(context)
        keys = keyring = None
        if authenticate is None:
            keys = key_store(settings, database, stack)
            keyring = Keyring(keys, clock)
            authenticate = Authentication(keyring)
        authenticate = _with_right_clock(authenticate, skew)
        hub = Hub(channel, encode_changes, encode_pong(settings.policy.cache_lease), time.monotonic)
        watch_service = SessionWatchService(hub, authenticate)
        dispatcher = Dispatcher(
            service,
            [admin_service],
            authenticate,
            CallQueue(running_limit=settings.max_in_flight_calls),
            rejected,
        )
        healthy = Health()
        host = new_host(
            settings, dispatcher, watch_service.streams, healthy, shown, share_port=share_port
        )
        address = bind(host, settings.listen)
        stack.enter_context(metrics(settings))
        stack.push_async_callback(_flush, activity)
        stack.push_async_callback(context.superseded.settle)
        if keys is not None and keyring is not None:
            await _make_first_key(settings, keys, clock, audit, show_key)
            await keyring.refresh()
            for ever in (keyring.keep_current(), keyring.keep_uses_written()):
                stack.callback(asyncio.create_task(ever).cancel)
        expire, *_ = jobs(database, settings, clock)
        for ever in (
            activity.run(),
            watch_backlog(expire, clock),
            channel.run(hub),
            hub.run(),
            watch_service.keep_checking(),
        ):
            stack.callback(asyncio.create_task(ever).cancel)
        right = right_clock(database, skew)
        if worker:
            upkeep = schedule(database, settings, clock, audit, right)
            upkeep.start()
            stack.push_async_callback(upkeep.stop)
        elif right is not None:
            stack.callback(asyncio.create_task(right.keep_noting()).cancel)
        await host.start()
        served = asyncio.create_task(served_to_its_end(host))
        stack.push_async_callback(drain, host, healthy, hub, settings.drain_seconds, served)
        await _set_serving(healthy, skew.wrong is None)
        watching = skew.watch(lambda serving: _set_serving(healthy, serving))
        stack.callback(asyncio.create_task(watching).cancel)
        yield Served(address, host.name, activity, watch_service.check)
        if served.done():
            raise StoppedServing


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
        server = MetricsServer(host, port)
    except OSError as error:
        raise CannotStart(
            f"metrics can't be served on {address}: {error.strerror}; set "
            "SESSION_AUTHORITY_METRICS_LISTEN to another address"
        ) from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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


def _with_right_clock(authenticate: Authenticate, skew: ClockSkew) -> Authenticate:
    """Return an authentication that refuses every caller while the machine's clock is wrong. Open streams then end."""

    def checked(method: str, metadata: Metadata) -> Caller:
        skew.refuse_if_wrong()
        return authenticate(method, metadata)

    return checked


async def _set_serving(healthy: Health, serving: bool) -> None:
    response = health_pb2.HealthCheckResponse
    for name in ("", *(each.full_name for each in SERVICES)):
        await healthy.set(name, response.SERVING if serving else response.NOT_SERVING)


def _channel(settings: Settings, database: Database) -> tuple[Channel, SqliteChannel | None]:
    """Return what brings the changes that caches must hear of, and who is to be told of those made here.

    Raises:
        CannotStart: If it is plain already that it can't be used.
    """
    if settings.sqlite_path is not None:
        here = SqliteChannel(lambda: database.write(_nothing))
        return here, here
    from session_authority_server.watch.postgresql_channel import PostgresqlChannel

    listen_url = settings.watch_database_url or settings.database_url
    try:
        return PostgresqlChannel(settings.database_url, listen_url), None
    except ValueError:
        raise CannotStart(
            "SESSION_AUTHORITY_WATCH_DATABASE_URL is no address of a database; give "
            "postgresql://user:password@host:port/database"
        ) from None


async def _nothing(_connection: AsyncConnection) -> None:
    pass


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


async def _flush(activity: Activity) -> None:
    try:
        await activity.flush()
    except StoreUnavailable:
        _log.error("activity could not be written at the end", sessions=len(activity))
